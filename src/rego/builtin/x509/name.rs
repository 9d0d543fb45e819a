//! Distinguished names, as Go's `pkix.Name`.

use std::collections::BTreeMap;

use regorus::Value;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::{super::argument::object_of, certificate::object_id};

/// The fields with a list of values, and the attributes they come from (RFC 4519).
const LISTS: [(&str, &str); 7] = [
    ("Country", "2.5.4.6"),
    ("Organization", "2.5.4.10"),
    ("OrganizationalUnit", "2.5.4.11"),
    ("Locality", "2.5.4.7"),
    ("Province", "2.5.4.8"),
    ("StreetAddress", "2.5.4.9"),
    ("PostalCode", "2.5.4.17"),
];
/// The fields with one value, the last one given.
const SINGLES: [(&str, &str); 2] = [("CommonName", "2.5.4.3"), ("SerialNumber", "2.5.4.5")];

pub(super) fn to_value(name: &X509Name<'_>) -> Value {
    let mut by_type: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut names = Vec::new();
    for attribute in name.iter_attributes() {
        let value = Value::from(text(attribute));
        by_type.entry(attribute.attr_type().to_id_string()).or_default().push(value.clone());
        names.push(object_of([("Type", object_id(attribute.attr_type())), ("Value", value)]));
    }
    let list = |values: Vec<Value>| if values.is_empty() { Value::Null } else { Value::from(values) };
    let lists = LISTS.map(|(field, kind)| (field, list(by_type.get(kind).cloned().unwrap_or_default())));
    let singles = SINGLES.map(|(field, kind)| {
        let single = by_type.get(kind).and_then(|values| values.last().cloned());
        (field, single.unwrap_or_else(|| Value::from("")))
    });
    let others = [("ExtraNames", Value::Null), ("Names", list(names))];
    object_of(lists.into_iter().chain(singles).chain(others))
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> String {
    match attribute.as_str() {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(attribute.as_slice()).into_owned(),
    }
}
