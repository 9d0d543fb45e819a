//! Results of policies.

#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::contract::decision::{Decision, Phase};
use regorus::Value;

fuzz_target!(|json: &str| {
    let Ok(result) = Value::from_json_str(json) else { return };
    for phase in [Phase::Request, Phase::Response] {
        match Decision::parse(&result, phase) {
            Ok(Decision::Deny(deny)) => {
                assert!((300..600).contains(&deny.status.as_u16()));
                assert!(deny.headers.values().all(|value| !value.as_bytes().contains(&b'\n')));
            }
            // Only `true`, or an object that says so, allows.
            Ok(Decision::Allow(_)) => {
                assert!(result == Value::from(true) || result["allow"] == Value::from(true));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
