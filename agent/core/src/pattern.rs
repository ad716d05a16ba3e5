//! Patterns of command lines: `*` stands for any letters, none included; everything else for itself.
//! Pure; takes time in proportion to both lengths at worst, and no memory.

/// Whether the whole of `text` is as `pattern` says.
#[must_use]
pub fn matches(pattern: &str, text: &[u8]) -> bool {
    let pattern = pattern.as_bytes();
    let (mut at, mut of) = (0, 0);
    // Where the last `*` is, and how much of the text it stands for so far.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(letter) if *letter == text[at] => {
                at += 1;
                of += 1;
            }
            _ => {
                let Some((place, upto)) = star else {
                    return false;
                };
                star = Some((place, upto + 1));
                at = upto + 1;
                of = place + 1;
            }
        }
    }
    pattern[of..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_anything() {
        let host =
            "/opt/lerobot/bin/python -I -m lerobot.robots.lekiwi.lekiwi_host --robot.id=robot";
        for (pattern, text, expected) in [
            ("*lekiwi_host*", host, true),
            ("*python* -m *lekiwi_host *", host, true),
            ("*lekiwi_host", host, false),
            ("python*", host, false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-cd", false),
            ("**a**", "bab", true),
            ("sshd", "sshd", true),
            ("sshd", "sshd -D", false),
        ] {
            assert_eq!(
                matches(pattern, text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    /// What it means, without care for time.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|n| slowly(rest, &text[n..])),
            [letter, rest @ ..] => text.first() == Some(letter) && slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_is_what_it_means(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            let expected = slowly(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(&pattern, text.as_bytes()), expected);
        }

        #[test]
        fn any_bytes_are_a_text(pattern in "\\PC*", text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = matches(&pattern, &text);
        }
    }
}
