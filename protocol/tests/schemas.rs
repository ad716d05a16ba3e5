//! The golden schemas: what a consumer in another language relies on.
#![cfg(feature = "schema")]

use std::path::Path;

#[test]
fn golden_schemas_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for (name, schema) in lekiwi_protocol::schema::all() {
        let path = folder.join(format!("{name}.schema.json"));
        let mut actual = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
        actual.push('\n');
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &actual).expect("schemas are writable");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            golden,
            actual,
            "{} is stale (hint: UPDATE_SCHEMAS=1 cargo test -p lekiwi-protocol --features schema)",
            path.display()
        );
    }
}
