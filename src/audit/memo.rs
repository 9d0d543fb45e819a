//! The text of documents that many requests share: a token's claims are encoded once, not for each request of its owner.
//!
//! A document is known by its address. The memo keeps the document alive, so the address cannot come to mean another one;
//! and what is shared cannot be changed in place.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use regorus::Value;

/// Documents kept at most; then all are forgotten, which costs each of them one more encoding.
const DOCUMENTS_MAX: usize = 256;
/// Bytes of their text at most.
const BYTES_MAX: usize = 256 * 1024;
/// Owners from which on a document is worth keeping: the request, its input, and someone who keeps it for later.
const OWNERS_MIN: usize = 3;

/// Texts of shared documents; one memo for each worker.
#[derive(Debug, Default)]
pub struct Memo {
    texts: HashMap<usize, Shared, RandomState>,
    bytes: usize,
}

#[derive(Debug)]
struct Shared {
    /// Never read: it keeps the address taken.
    _document: Value,
    text: Box<[u8]>,
}

impl Memo {
    /// The text of `value`, if it is known.
    pub(super) fn get(&self, value: &Value) -> Option<&[u8]> {
        self.texts.get(&address(value)?).map(|shared| &*shared.text)
    }

    /// Keeps `text` as that of `value`, if `value` is shared.
    pub(super) fn put(&mut self, value: &Value, text: &[u8]) {
        let Some(address) = address(value) else { return };
        if self.texts.len() >= DOCUMENTS_MAX || self.bytes + text.len() > BYTES_MAX {
            self.texts.clear();
            self.bytes = 0;
        }
        if text.len() <= BYTES_MAX {
            self.bytes += text.len();
            self.texts.insert(address, Shared { _document: value.clone(), text: text.into() });
        }
    }
}

/// The address of an object that is shared widely enough.
fn address(value: &Value) -> Option<usize> {
    match value {
        Value::Object(members) if Arc::strong_count(members) >= OWNERS_MIN => {
            Some(Arc::as_ptr(members).addr())
        }
        Value::Object(_)
        | Value::Null
        | Value::Undefined
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Set(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(index: usize) -> Value {
        Value::from_json_str(&format!("{{\"index\":{index}}}")).unwrap()
    }

    #[test]
    fn only_shared_documents_are_kept_and_by_identity() {
        let mut memo = Memo::default();
        let own = document(1);
        memo.put(&own, b"own");
        assert_eq!(memo.get(&own), None);
        let shared = [own.clone(), own.clone(), own];
        memo.put(&shared[0], b"text");
        assert_eq!(memo.get(&shared[2]), Some(&b"text"[..]));
        let equal = document(1);
        let _owners = [equal.clone(), equal.clone()];
        assert_eq!(memo.get(&equal), None);
    }

    #[test]
    fn a_changed_document_is_another_one() {
        let mut memo = Memo::default();
        let shared = document(1);
        let _owners = [shared.clone(), shared.clone()];
        memo.put(&shared, b"before");
        let mut changed = shared.clone();
        changed.as_object_mut().unwrap().insert(Value::from("more"), Value::Null);
        let _owners_of_changed = [changed.clone(), changed.clone()];
        assert_eq!((memo.get(&changed), memo.get(&shared)), (None, Some(&b"before"[..])));
    }

    #[test]
    fn documents_and_bytes_are_bounded() {
        let mut memo = Memo::default();
        let keep = |memo: &mut Memo, index: usize, bytes: usize| {
            let shared = document(index);
            let _owners = [shared.clone(), shared.clone()];
            memo.put(&shared, &vec![b'x'; bytes]);
        };
        for index in 0..10_000 {
            keep(&mut memo, index, 1);
            assert!(memo.texts.len() <= DOCUMENTS_MAX);
        }
        let mut memo = Memo::default();
        for index in 0..100 {
            keep(&mut memo, index, BYTES_MAX / 3);
            assert!(memo.bytes <= BYTES_MAX && memo.texts.len() <= 3);
        }
        keep(&mut memo, 0, BYTES_MAX + 1);
        assert!(memo.texts.is_empty());
    }
}
