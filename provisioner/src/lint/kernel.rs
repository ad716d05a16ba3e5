//! Rules about the kernel's command line, and what it says about the seed.

use super::{Report, Seed, Texts, line};

const FILE: &str = "cmdline.txt";

pub(super) fn check(seed: &Seed, texts: &Texts, report: &mut Report) {
    let has = |name: &str| seed.files.contains_key(name);
    let words = texts.cmdline();
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    if let Some(text) = texts.text(FILE) {
        let full = |line: &&str| !line.trim().is_empty();
        let lines = text.lines().filter(full).count();
        if lines == 0 {
            report.error(
                "cmdline-lines",
                (FILE, Some(1)),
                "the file is empty, and the kernel finds no root file system",
            );
            report.hint("take it from the image again");
        } else if lines > 1 {
            report.error(
                "cmdline-lines",
                (FILE, Some(2)),
                format!("expected one line, got {lines}: the firmware reads the first only"),
            );
            report.hint("join the lines with spaces");
        } else if value("root=").is_none() {
            report.error(
                "cmdline-root",
                (FILE, Some(1)),
                "there is no root=…: the kernel finds no root file system",
            );
            report.hint("take the file from the image again");
        } else if texts.sidecar("os").as_deref() == Some("raspios-trixie")
            && !words.contains(&"resize")
        {
            report.warning(
                "cmdline-resize",
                (FILE, Some(1)),
                "there is no word resize: the root file system stays as small as the image",
            );
            report.hint("the word is gone after a first boot: seed a fresh image");
        }
    }
    data_source(texts, value("ds="), report);
    let script = value("systemd.run=");
    if let Some(path) = script
        && path.ends_with("/firstrun.sh")
        && !has("firstrun.sh")
    {
        report.error(
            "firstrun",
            (FILE, Some(1)),
            "systemd.run= names firstrun.sh, which is not here: the boot ends in an error",
        );
    }
    if has("firstrun.sh") && !script.is_some_and(|path| path.ends_with("/firstrun.sh")) {
        report.error(
            "firstrun",
            ("firstrun.sh", None),
            "no systemd.run= on the kernel's command line names the script, so nothing runs it",
        );
        report.hint("append to the line in cmdline.txt: systemd.run=/boot/firmware/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target");
    }
}

/// `ds=nocloud;i=ID;s=URL`: short and long names.
fn data_source(texts: &Texts, source: Option<&str>, report: &mut Report) {
    let Some(source) = source else {
        return;
    };
    let field = |names: [&str; 2]| {
        source
            .split(';')
            .filter_map(|part| part.split_once('='))
            .find_map(|(name, value)| names.contains(&name).then_some(value))
    };
    if let Some(url) = field(["s", "seedfrom"])
        && texts.is_raspios()
    {
        report.error(
            "data-source",
            (FILE, Some(1)),
            format!(
                "the image's own seedfrom: file:///boot/firmware overrides {url:?} in ds=, so it is never asked"
            ),
        );
        report.hint("put the seed on the boot partition, or override with cc: on the command line");
    }
    let Some(ours) = field(["i", "instance-id"]) else {
        return;
    };
    let meta = texts.yaml("meta-data");
    let theirs = meta
        .as_ref()
        .and_then(|meta| meta.get("instance-id"))
        .and_then(|id| id.as_str());
    if let Some(theirs) = theirs
        && theirs != ours
    {
        let text = texts.text("meta-data").unwrap_or_default();
        report.warning(
            "instance-id",
            ("meta-data", line(text, "instance-id")),
            format!(
                "the kernel's command line says {ours:?} and counts, so a change of {theirs:?} starts no new first boot"
            ),
        );
        report.hint("write the same into ds=nocloud;i=… of cmdline.txt");
    }
}
