//! Canonical paths.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::base::path::{CanonicalPath, PathRules};

fuzz_target!(|input: (bool, bool, &str)| {
    let (merge_slashes, path_parameters, raw) = input;
    let rules = PathRules { merge_slashes, path_parameters };
    let Ok(path) = CanonicalPath::parse(raw, rules) else { return };
    assert_eq!(CanonicalPath::parse(path.as_str(), rules).as_ref(), Ok(&path));
    assert_eq!(CanonicalPath::parse(path.as_str(), PathRules { merge_slashes: false, ..rules }).as_ref(), Ok(&path));
    assert!(path.as_str().starts_with('/') && path.as_str().is_ascii());
    let segments: Vec<_> = path.segments().collect();
    for (at, segment) in segments.iter().enumerate() {
        assert!(!matches!(&**segment, "." | ".."));
        assert!(!segment.is_empty() || at + 1 == segments.len());
        assert!(!segment.contains(['/', '\\']) && !segment.bytes().any(|byte| byte < b' ' || byte == 0x7f));
        assert!(path_parameters || !segment.contains(';'));
    }
});
