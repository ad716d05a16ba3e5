//! Who uses a robot's devices, from the texts of `/etc/passwd` and `/etc/group`. Pure.

/// User ids of people, as Debian gives them.
const PEOPLE: std::ops::Range<u32> = 1000..60_000;

/// The agent's account and those of people, as far as they exist.
pub(crate) fn users_of_devices<'a>(passwd: &'a str, agent: &str) -> Vec<&'a str> {
    let account = |line: &'a str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        (name == agent || PEOPLE.contains(&id)).then_some(name)
    };
    passwd.lines().filter_map(account).collect()
}

/// The members of a group; `None` when there is no such group.
pub(crate) fn members<'a>(group: &'a str, name: &str) -> Option<Vec<&'a str>> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let members = fields.nth(2).unwrap_or_default();
        Some(
            members
                .split(',')
                .filter(|member| !member.is_empty())
                .collect(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_the_agent_use_devices() {
        let passwd = "root:x:0:0::/root:/bin/bash\nlekiwi-agent:x:990:990::/opt:/usr/sbin/nologin\n\
                      daemon:x:1:1::/:/x\npi:x:1000:1000::/home/pi:/bin/bash\nnobody:x:65534:65534::/:/x\nbroken\n";
        assert_eq!(
            users_of_devices(passwd, "lekiwi-agent"),
            ["lekiwi-agent", "pi"]
        );
        let group = "dialout:x:20:pi,lekiwi-agent\nvideo:x:44:\n";
        assert_eq!(members(group, "dialout"), Some(vec!["pi", "lekiwi-agent"]));
        assert_eq!(members(group, "video"), Some(Vec::new()));
        assert_eq!(members(group, "dial"), None);
    }
}
