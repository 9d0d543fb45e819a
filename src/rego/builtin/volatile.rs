//! Clock, chance and the process: one answer for the whole of a decision.

use regorus::Value;

use super::{Entry, Failure, argument, evaluation};

pub(super) const TABLE: &[Entry] = &[
    ("opa.runtime", 0, |_| Ok(evaluation::runtime())),
    ("rand.intn", 2, rand_intn),
    ("time.now_ns", 0, |_| Ok(Value::from(evaluation::now_ns()))),
    ("trace", 1, |arguments| argument::string(arguments, 0).map(|_| Value::from(true))),
    ("uuid.rfc4122", 1, rfc4122),
];

/// Names of the built-ins that may answer differently the next time: those that look at the clock,
/// at chance, at the process, or outside.
pub(super) const NAMES: &[&str] = &[
    "crypto.x509.parse_and_verify_certificates",
    "crypto.x509.parse_and_verify_certificates_with_options",
    "http.send",
    "io.jwt.decode_verify",
    "io.jwt.encode_sign",
    "io.jwt.encode_sign_raw",
    "net.lookup_ip_addr",
    "opa.runtime",
    "print",
    "rand.intn",
    "time.now_ns",
    "trace",
    "uuid.rfc4122",
];

fn rand_intn(arguments: &[Value]) -> Result<Value, Failure> {
    argument::string(arguments, 0)?;
    let bound = argument::integer(arguments, 1)?.unsigned_abs();
    if bound == 0 {
        return Ok(Value::from(0_u64));
    }
    evaluation::memoise("rand.intn", arguments, || {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| Failure::Error("no randomness to be had".to_owned()))?;
        // 128 bits against a bound of 64: the bias is below 2^-64.
        let drawn = u128::from_le_bytes(bytes) % u128::from(bound);
        Ok(Value::from(drawn))
    })
}

fn rfc4122(arguments: &[Value]) -> Result<Value, Failure> {
    evaluation::memoise("uuid.rfc4122", arguments, || Ok(Value::from(uuid::Uuid::new_v4().to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::outside::Settled;

    #[test]
    fn chance_stays_the_same_within_one_evaluation() {
        evaluation::start(1, &Value::new_object(), Settled::default());
        let seed = [Value::from("a"), Value::from(1_u64 << 60)];
        let first = rand_intn(&seed).unwrap();
        assert_eq!(rand_intn(&seed).unwrap(), first);
        let key = [Value::from("k")];
        let uuid = rfc4122(&key).unwrap();
        assert_eq!(rfc4122(&key).unwrap(), uuid);
        evaluation::start(2, &Value::new_object(), Settled::default());
        assert_ne!(rand_intn(&seed).unwrap(), first);
        assert_ne!(rfc4122(&key).unwrap(), uuid);
    }

    #[test]
    fn chance_without_a_range_is_zero() {
        assert_eq!(rand_intn(&[Value::from("a"), Value::from(0)]).unwrap(), Value::from(0));
        assert!(rand_intn(&[Value::from(1), Value::from(0)]).is_err());
    }
}
