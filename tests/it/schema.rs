//! The committed schemas are what the program says they are.

use std::fs;
use std::path::Path;

use postern::{config, contract};

#[test]
fn committed_schemas_are_current() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let gateway = ("gateway.schema.json", config::schema());
    for (name, schema) in std::iter::once(gateway).chain(contract::schema::all()) {
        let committed = fs::read_to_string(directory.join(name)).unwrap_or_default();
        assert!(committed == format!("{schema:#}\n"), "{name} is not current: run `gatewayctl schema write`");
    }
}
