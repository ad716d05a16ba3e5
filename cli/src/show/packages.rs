//! Installed packages.

use comfy_table::Cell;
use lekiwi_protocol::api::PackagesView;

use super::{finish, table};
use crate::ui::plain;

/// `lekiwi packages ID`.
pub(crate) fn packages(list: &PackagesView, colour: bool) -> String {
    let mut table = table(colour, &["package", "architecture", "version"]);
    for package in &list.packages {
        let cells = [&package.name, &package.architecture, &package.version];
        table.add_row(cells.map(|text| Cell::new(plain(text))));
    }
    format!(
        "{}\n{} packages, {}, as of {}",
        finish(&table),
        list.packages.len(),
        plain(&list.digest),
        list.uploaded_at
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use expect_test::expect;
    use lekiwi_protocol::api::PackageView;

    use super::*;

    #[test]
    fn a_line_each_and_their_digest() {
        let list = PackagesView {
            digest: "sha256:00".to_owned(),
            is_current: Some(true),
            uploaded_at: "2026-11-21T12:00:00.000Z".parse().unwrap(),
            packages: [
                "adduser all 3.134",
                "libc6 arm64 2.36-9+deb12u9",
                "\u{1b}[31m",
            ]
            .map(PackageView::read)
            .into(),
        };
        expect![[r#"
            PACKAGE     ARCHITECTURE  VERSION
            adduser     all           3.134
            libc6       arm64         2.36-9+deb12u9
            \u{1b}[31m
            3 packages, sha256:00, as of 2026-11-21T12:00:00.000Z"#]]
        .assert_eq(&packages(&list, false));
    }
}
