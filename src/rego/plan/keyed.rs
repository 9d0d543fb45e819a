//! Large objects of data with their keys hashed at load: finding one of 100 000 keys is then as quick as one of ten.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use regorus::Value;

use super::slot::look;

/// Objects smaller than this are faster searched than hashed.
pub(super) const KEYS_MIN: usize = 12;
/// Keys hashed at the most, of all objects.
const KEYS_MAX: usize = 1 << 21;

/// The text keys of each large object, by the object's own address: values of data live as long as the plan.
#[derive(Debug, Default)]
pub(super) struct Keyed {
    objects: HashMap<usize, Fields, RandomState>,
}

type Fields = HashMap<Arc<str>, Value, RandomState>;

impl Keyed {
    /// Hashes the keys of all large objects below a value.
    pub(super) fn gather(data: &Value) -> Self {
        let mut keyed = Self::default();
        let mut left = KEYS_MAX;
        let mut open = vec![data];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(fields) => {
                    if (KEYS_MIN..=left).contains(&fields.len()) {
                        left -= fields.len();
                        let texts = fields.iter().filter_map(|(key, value)| {
                            let Value::String(text) = key else { return None };
                            Some((text.clone(), value.clone()))
                        });
                        keyed.objects.insert(Arc::as_ptr(fields).addr(), texts.collect());
                    }
                    open.extend(fields.values());
                }
                Value::Array(items) => open.extend(items.iter()),
                Value::Set(_)
                | Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Undefined => {}
            }
        }
        keyed
    }

    /// What lies at a key of a value, which is looked into where it is none of the objects known here.
    pub(super) fn look<'v>(&'v self, value: &'v Value, key: &Value) -> Option<&'v Value> {
        match (self.fields_of(value), key) {
            (Some(fields), Value::String(text)) => fields.get(&**text),
            _ => look(value, key),
        }
    }

    fn fields_of(&self, value: &Value) -> Option<&Fields> {
        let Value::Object(fields) = value else { return None };
        if fields.len() < KEYS_MIN { None } else { self.objects.get(&Arc::as_ptr(fields).addr()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn all_keys_are_found_and_only_texts_of_large_objects_by_hash() {
        let large = (0..100).map(|n| (Value::from(format!("k{n}")), Value::from(n)));
        let large =
            Value::from(large.chain([(Value::from(7), Value::from("number"))]).collect::<BTreeMap<_, _>>());
        let small = Value::from_json_str(r#"{"a": 1}"#).unwrap();
        let data = Value::from(vec![large.clone(), small.clone()]);
        let keyed = Keyed::gather(&data);
        assert_eq!(keyed.look(&large, &Value::from("k42")), Some(&Value::from(42)));
        assert_eq!(keyed.look(&large, &Value::from("none")), None);
        // A number is no text, and is searched for as ever.
        assert_eq!(keyed.look(&large, &Value::from(7)), Some(&Value::from("number")));
        assert_eq!(keyed.look(&small, &Value::from("a")), Some(&Value::from(1)));
        assert!(keyed.fields_of(&large).is_some() && keyed.fields_of(&small).is_none());
        let changed = Value::from_json_str(&large.to_string().replace("42", "43")).unwrap();
        assert!(keyed.fields_of(&changed).is_none());
        assert_eq!(keyed.look(&changed, &Value::from("k43")), Some(&Value::from(43)));
    }
}
