//! Decisions remembered by all that they depend on, for policies that cost more than remembering.
//!
//! INVARIANT: a key holds every input value that the entry point can read, and a cache lives as long as one compiled
//! policy with its data, so what is found is what the policy would answer again. Failures are never remembered.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use regorus::Value;

use crate::contract::decision::Decision;
use crate::policy::decide::Ruling;

/// Longest key; a request whose facts are longer is decided anew.
const KEY_BYTES_MAX: usize = 4 << 10;
/// Decisions that are timed before the cache is used or given up.
const TIMED: u32 = 32;
/// How many times dearer deciding must be than finding.
const WORTH: u32 = 3;
/// Lookups after which a cache that finds less than one in eight is given up.
const TRIAL: u32 = 4_096;

/// The decisions of one entry point on one worker.
#[derive(Debug)]
pub(super) struct Cache {
    state: State,
    key: Key,
    /// Entries of one generation.
    capacity: usize,
    young: HashMap<Box<[u8]>, Remembered, RandomState>,
    old: HashMap<Box<[u8]>, Remembered, RandomState>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Whether remembering pays is being found out.
    Timing {
        decisions: u32,
        deciding: Duration,
        finding: Duration,
    },
    On {
        lookups: u32,
        hits: u32,
    },
    Off,
}

#[derive(Debug, Clone)]
struct Remembered {
    result: Option<Value>,
    decision: Decision,
}

/// All that a decision depends on, as bytes: equal keys are equal values.
#[derive(Debug, Default)]
pub(super) struct Key {
    bytes: Vec<u8>,
    is_too_long: bool,
}

// === impl State ===

impl State {
    /// What follows from the time of the first decisions.
    fn judged(deciding: Duration, finding: Duration) -> Self {
        if deciding > finding * WORTH { Self::On { lookups: 0, hits: 0 } } else { Self::Off }
    }
}

// === impl Cache ===

impl Cache {
    /// An empty cache of at most `entries` decisions.
    pub(super) fn new(entries: usize) -> Self {
        Self {
            state: State::Timing { decisions: 0, deciding: Duration::ZERO, finding: Duration::ZERO },
            key: Key::default(),
            capacity: entries.div_ceil(2),
            young: HashMap::default(),
            old: HashMap::default(),
        }
    }

    /// The ruling for a key, remembered or decided now.
    pub(super) fn answer(&mut self, write: impl FnOnce(&mut Key), decide: impl FnOnce() -> Ruling) -> Ruling {
        match self.state {
            State::Off => decide(),
            State::Timing { decisions, deciding, finding } => {
                let started = Instant::now();
                self.write(write);
                let found = started.elapsed();
                let ruling = decide();
                let finding = finding + found;
                let deciding = deciding + started.elapsed().saturating_sub(found);
                self.state = if decisions + 1 < TIMED {
                    State::Timing { decisions: decisions + 1, deciding, finding }
                } else {
                    State::judged(deciding, finding)
                };
                ruling
            }
            State::On { lookups, hits } => {
                self.write(write);
                if self.key.is_too_long {
                    return decide();
                }
                let known = self.find();
                self.judge(lookups + 1, hits + u32::from(known.is_some()));
                if let Some(Remembered { result, decision }) = known {
                    return Ruling {
                        input: None,
                        result,
                        decision: Ok(decision),
                        error: None,
                        is_remembered: true,
                    };
                }
                let ruling = decide();
                if let (Ok(decision), State::On { .. }) = (&ruling.decision, self.state) {
                    self.remember(Remembered { result: ruling.result.clone(), decision: decision.clone() });
                }
                ruling
            }
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut Key)) {
        self.key.bytes.clear();
        self.key.is_too_long = false;
        write(&mut self.key);
    }

    fn judge(&mut self, lookups: u32, hits: u32) {
        self.state = if lookups < TRIAL {
            State::On { lookups, hits }
        } else if hits >= lookups / 8 {
            State::On { lookups: 0, hits: 0 }
        } else {
            (self.young, self.old) = Default::default();
            State::Off
        };
    }

    fn find(&mut self) -> Option<Remembered> {
        let key = self.key.bytes.as_slice();
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let known = self.old.remove(key)?;
        self.remember(known.clone());
        Some(known)
    }

    /// Two maps stand for a least-recently-used list: what is used is in the young one, and when that is full the old
    /// one is dropped for it.
    fn remember(&mut self, answer: Remembered) {
        if self.young.len() >= self.capacity {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(self.key.bytes.as_slice().into(), answer);
    }
}

// === impl Key ===

impl Key {
    /// Adds a value.
    pub(super) fn push(&mut self, value: Option<&Value>) {
        if self.bytes.len() > KEY_BYTES_MAX {
            self.is_too_long = true;
        }
        if self.is_too_long {
            return;
        }
        match value {
            None | Some(Value::Undefined) => self.bytes.push(0),
            Some(Value::Null) => self.bytes.push(1),
            Some(Value::Bool(false)) => self.bytes.push(2),
            Some(Value::Bool(true)) => self.bytes.push(3),
            Some(number @ Value::Number(_)) => match number.as_i64() {
                // Equal to 0, and yet `json.marshal` and `sprintf` tell it apart.
                Ok(0) if number.as_f64().is_ok_and(f64::is_sign_negative) => self.text(5, "-0"),
                Ok(number) => {
                    self.bytes.push(4);
                    self.bytes.extend(number.to_le_bytes());
                }
                Err(_) => self.text(5, &number.to_string()),
            },
            Some(Value::String(text)) => self.text(6, text),
            Some(Value::Array(items)) => {
                self.length(7, items.len());
                items.iter().for_each(|item| self.push(Some(item)));
            }
            Some(Value::Set(members)) => {
                self.length(8, members.len());
                members.iter().for_each(|member| self.push(Some(member)));
            }
            Some(Value::Object(fields)) => {
                self.length(9, fields.len());
                for (key, value) in fields.iter_sorted() {
                    self.push(Some(key));
                    self.push(Some(value));
                }
            }
        }
    }

    fn length(&mut self, tag: u8, length: usize) {
        self.bytes.push(tag);
        self.bytes.extend(length.to_le_bytes());
    }

    fn text(&mut self, tag: u8, text: &str) {
        self.length(tag, text.len());
        if text.len() > KEY_BYTES_MAX {
            self.is_too_long = true;
        } else {
            self.bytes.extend_from_slice(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(value: &Value) -> Vec<u8> {
        let mut key = Key::default();
        key.push(Some(value));
        key.bytes
    }

    fn on(entries: usize) -> Cache {
        Cache { state: State::On { lookups: 0, hits: 0 }, ..Cache::new(entries) }
    }

    fn allow() -> Ruling {
        let decision = Ok(Decision::Allow(Box::default()));
        Ruling { input: None, result: Some(Value::from(true)), decision, error: None, is_remembered: false }
    }

    fn ask(cache: &mut Cache, value: u64) -> Ruling {
        cache.answer(|key| key.push(Some(&Value::from(value))), allow)
    }

    proptest! {
        #[test]
        fn keys_are_equal_where_values_are(values in prop::collection::vec(
            prop::sample::select(vec![
                "null", "false", "1", "1.5", "-1", "18446744073709551615", "\"\"", "\"a\"", "\"1\"", "[]", "[[]]", "[\"a\"]",
                "[\"a\", \"b\"]", "[[\"a\"], \"b\"]", "[[\"a\", \"b\"]]", "{}", "{\"a\": 1}", "{\"a\": [1]}",
            ]), 2)) {
            let values: Vec<Value> = values.iter().map(|text| Value::from_json_str(text).unwrap()).collect();
            prop_assert_eq!(key(&values[0]) == key(&values[1]), values[0] == values[1]);
        }
    }

    #[test]
    fn numbers_a_policy_can_write_differently_have_keys_of_their_own() {
        let number = |text: &str| key(&Value::from_json_str(text).unwrap());
        assert_ne!(number("-0.0"), number("0"));
        assert_eq!(number("-0.0"), number("-0.0"));
        assert_eq!(number("1.0"), number("1"), "both are written as `1`");
    }

    #[test]
    fn a_set_is_not_the_array_of_its_members() {
        let members = [Value::from(1), Value::from(2)];
        assert_ne!(key(&Value::from(members.to_vec())), key(&Value::from(BTreeSet::from(members))));
    }

    #[test]
    fn what_was_asked_before_is_remembered_and_the_rest_is_bounded() {
        let mut cache = on(8);
        assert!(!ask(&mut cache, 1).is_remembered);
        assert!(ask(&mut cache, 1).is_remembered);
        for other in 100..1_000 {
            // The one in use stays, whatever else comes.
            assert!(ask(&mut cache, 1).is_remembered, "{other}");
            assert!(!ask(&mut cache, other).is_remembered);
            assert!(cache.young.len() + cache.old.len() <= 8);
        }
    }

    #[test]
    fn failures_and_long_keys_are_asked_anew() {
        let mut cache = on(8);
        let fail = || Ruling {
            input: None,
            result: None,
            decision: Err(crate::policy::decide::Failure::Budget),
            error: None,
            is_remembered: false,
        };
        for _ in 0..2 {
            assert!(cache.answer(|key| key.push(None), fail).decision.is_err());
            let long = Value::from("x".repeat(KEY_BYTES_MAX + 1));
            assert!(!cache.answer(|key| key.push(Some(&long)), allow).is_remembered);
            let many = Value::from(vec![Value::from("some text"); 1_000]);
            assert!(!cache.answer(|key| key.push(Some(&many)), allow).is_remembered);
        }
    }

    #[test]
    fn a_cache_that_finds_nothing_is_given_up() {
        let mut cache = on(8);
        (0..u64::from(TRIAL)).for_each(|value| drop(ask(&mut cache, value)));
        assert!(matches!(cache.state, State::Off));
        assert!(cache.young.is_empty() && cache.old.is_empty());
    }

    #[test]
    fn only_a_dear_policy_gets_a_cache() {
        let micros = Duration::from_micros;
        assert!(matches!(State::judged(micros(3_001), micros(1_000)), State::On { .. }));
        assert!(matches!(State::judged(micros(3_000), micros(1_000)), State::Off));
        let mut cache = Cache::new(8);
        (0..TIMED).for_each(|_| drop(ask(&mut cache, 1)));
        assert!(!matches!(cache.state, State::Timing { .. }));
    }
}
