//! `json.*` and `yaml.*` where regorus answers otherwise than OPA: validity, text, and JSON Schema.
//!
//! Schemas are draft 7, are never fetched, and their patterns match in linear time. A description
//! reads as OPA's does; errors inside combined schemas (`anyOf`, ..) are given by the combination.

use jsonschema::{
    PatternOptions, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use regorus::Value;
use serde_json::Value as Json;

use super::{Entry, Failure, argument, argument::object_of, encoding::to_json, engine};

pub(super) const TABLE: &[Entry] = &[
    ("json.is_valid", 1, |arguments| is_valid("json.is_valid", arguments)),
    ("json.marshal", 1, |arguments| argument::get(arguments, 0).map(|value| Value::from(to_json(value)))),
    ("json.match_schema", 2, match_schema),
    ("json.verify_schema", 1, verify_schema),
    ("yaml.is_valid", 1, |arguments| is_valid("yaml.is_valid", arguments)),
];

/// Longest schema compiled, as text.
const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Most errors reported for one document.
const ERRORS_MAX: usize = 1_000;

const TYPES: [&str; 7] = ["array", "boolean", "integer", "number", "null", "object", "string"];

fn is_valid(name: &str, arguments: &[Value]) -> Result<Value, Failure> {
    match argument::get(arguments, 0)? {
        Value::String(_) => engine::named(name, arguments),
        _ => Ok(Value::from(false)),
    }
}

/// A document or schema: an object, or the text of any JSON.
fn json_of(value: &Value) -> Result<Json, String> {
    match value {
        Value::String(text) => serde_json::from_str(text).map_err(|_| "invalid JSON string".to_owned()),
        Value::Object(_) => serde_json::to_value(value).map_err(|error| error.to_string()),
        _ => Err("wrong type, expected string or object".to_owned()),
    }
}

fn compiled(schema: &Json) -> Result<Validator, Failure> {
    if schema.to_string().len() > SCHEMA_BYTES_MAX {
        return Err(Failure::Refused(format!("schema longer than {} KiB", SCHEMA_BYTES_MAX >> 10)));
    }
    if let Some(unknown) = unknown_type(schema) {
        return Err(Failure::Error(format!(
            "has a primitive type that is NOT VALID -- given: /{unknown}/ Expected valid values are:[{}]",
            TYPES.join(" ")
        )));
    }
    jsonschema::draft7::options()
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(true)
        .build(schema)
        .map_err(|error| Failure::Error(error.to_string()))
}

/// The first type a schema names that does not exist.
fn unknown_type(schema: &Json) -> Option<&str> {
    let fields = schema.as_object()?;
    let named = fields.get("type").and_then(Json::as_str).filter(|named| !TYPES.contains(named));
    named.or_else(|| {
        let nested = ["properties", "patternProperties", "definitions", "$defs"];
        let maps = nested.iter().filter_map(|name| fields.get(*name)?.as_object());
        let lists = ["allOf", "anyOf", "oneOf"].iter().filter_map(|name| fields.get(*name)?.as_array());
        let single = ["items", "additionalProperties", "not", "contains"].iter();
        maps.flat_map(|map| map.values())
            .chain(lists.flatten())
            .chain(single.filter_map(|name| fields.get(*name)))
            .find_map(unknown_type)
    })
}

fn verify_schema(arguments: &[Value]) -> Result<Value, Failure> {
    let schema = json_of(argument::get(arguments, 0)?).map_err(Failure::Error);
    match schema.and_then(|schema| compiled(&schema)) {
        Ok(_) => Ok(Value::from(vec![Value::from(true), Value::Null])),
        Err(Failure::Error(reason)) => {
            Ok(Value::from(vec![Value::from(false), Value::from(format!("jsonschema: {reason}"))]))
        }
        Err(ends @ (Failure::Refused(_) | Failure::Unanswered(_))) => Err(ends),
    }
}

fn match_schema(arguments: &[Value]) -> Result<Value, Failure> {
    let document = json_of(argument::get(arguments, 0)?).map_err(Failure::Error)?;
    let schema = json_of(argument::get(arguments, 1)?).map_err(Failure::Error)?;
    let validator = compiled(&schema)?;
    let mut errors: Vec<Value> = Vec::new();
    for error in validator.iter_errors(&document) {
        for (kind, field, description) in described(&error, &schema, &document) {
            errors.push(object_of([
                ("desc", Value::from(description.as_str())),
                ("error", Value::from(format!("{field}: {description}"))),
                ("field", Value::from(field)),
                ("type", Value::from(kind)),
            ]));
        }
        if errors.len() > ERRORS_MAX {
            return Err(Failure::Refused(format!("more than {ERRORS_MAX} schema errors")));
        }
    }
    Ok(Value::from(vec![Value::from(errors.is_empty()), Value::from(errors)]))
}

/// The kind, field and description OPA has for an error; unexpected properties are one each.
fn described(error: &ValidationError<'_>, schema: &Json, document: &Json) -> Vec<(String, String, String)> {
    let path = error.instance_path().to_string();
    let field = if path.is_empty() {
        "(Root)".to_owned()
    } else {
        path.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~")
    };
    let one = |kind: &str, description: String| vec![(kind.to_owned(), field.clone(), description)];
    let path_of_schema = error.schema_path().as_str();
    // What is wrong with a combination is named after the kind of value.
    let combined = |name: &str, description: &str| {
        one(&format!("{}_{name}", combination_of(error.instance())), description.to_owned())
    };
    if let Some((kind, description)) = beyond(error.kind()) {
        return one(kind, description);
    }
    match error.kind() {
        ValidationErrorKind::Type { kind } => one(
            "invalid_type",
            format!(
                "Invalid type. Expected: {}, given: {}",
                wanted(kind, schema.pointer(path_of_schema)),
                given(error.instance())
            ),
        ),
        ValidationErrorKind::Required { property } => {
            let property = property.as_str().map_or_else(|| property.to_string(), str::to_owned);
            one("required", format!("{property} is required"))
        }
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .flat_map(|name| {
                one("additional_property_not_allowed", format!("Additional property {name} is not allowed"))
            })
            .collect(),
        ValidationErrorKind::AdditionalItems { .. } => {
            one("array_no_additional_items", "No additional items allowed on array".to_owned())
        }
        ValidationErrorKind::Pattern { pattern } => {
            one("pattern", format!("Does not match pattern '{pattern}'"))
        }
        ValidationErrorKind::Format { format } => one("format", format!("Does not match format '{format}'")),
        ValidationErrorKind::Enum { options } => {
            let options = options
                .as_array()
                .map(|options| options.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
            let options = options.unwrap_or_default();
            one("enum", format!("{field} must be one of the following: {options}"))
        }
        ValidationErrorKind::Constant { expected_value } => {
            one("const", format!("{field} does not match: {expected_value}"))
        }
        ValidationErrorKind::UniqueItems => one("unique", "array items must be unique".to_owned()),
        ValidationErrorKind::Contains => one("contains", "At least one of the items must match".to_owned()),
        ValidationErrorKind::Not { .. } => combined("not", "Must not validate the schema (not)"),
        ValidationErrorKind::AnyOf { .. } => combined("any_of", "Must validate at least one schema (anyOf)"),
        ValidationErrorKind::OneOfMultipleValid { .. } | ValidationErrorKind::OneOfNotValid { .. } => {
            combined("one_of", "Must validate one and only one schema (oneOf)")
        }
        ValidationErrorKind::FalseSchema if path_of_schema.ends_with("/additionalProperties") => {
            additional(document.pointer(&path), schema, path_of_schema)
                .flat_map(|name| {
                    one(
                        "additional_property_not_allowed",
                        format!("Additional property {name} is not allowed"),
                    )
                })
                .collect()
        }
        ValidationErrorKind::FalseSchema => one("false", "False always fails validation".to_owned()),
        other => one(other.keyword(), error.to_string()),
    }
}

/// The kind and description of a value beyond a limit.
fn beyond(kind: &ValidationErrorKind) -> Option<(&'static str, String)> {
    Some(match kind {
        ValidationErrorKind::Minimum { limit } => {
            ("number_gte", format!("Must be greater than or equal to {limit}"))
        }
        ValidationErrorKind::Maximum { limit } => {
            ("number_lte", format!("Must be less than or equal to {limit}"))
        }
        ValidationErrorKind::ExclusiveMinimum { limit } => {
            ("number_gt", format!("Must be greater than {limit}"))
        }
        ValidationErrorKind::ExclusiveMaximum { limit } => {
            ("number_lt", format!("Must be less than {limit}"))
        }
        ValidationErrorKind::MultipleOf { multiple_of } => {
            ("multiple_of", format!("Must be a multiple of {multiple_of}"))
        }
        ValidationErrorKind::MinLength { limit } => {
            ("string_gte", format!("String length must be greater than or equal to {limit}"))
        }
        ValidationErrorKind::MaxLength { limit } => {
            ("string_lte", format!("String length must be less than or equal to {limit}"))
        }
        ValidationErrorKind::MinItems { limit } => {
            ("array_min_items", format!("Array must have at least {limit} items"))
        }
        ValidationErrorKind::MaxItems { limit } => {
            ("array_max_items", format!("Array must have at most {limit} items"))
        }
        ValidationErrorKind::MinProperties { limit } => {
            ("array_min_properties", format!("Must have at least {limit} properties"))
        }
        ValidationErrorKind::MaxProperties { limit } => {
            ("array_max_properties", format!("Must have at most {limit} properties"))
        }
        _ => return None,
    })
}

/// The properties of an object that a schema without patterns does not name.
fn additional<'a>(object: Option<&'a Json>, schema: &'a Json, path: &str) -> impl Iterator<Item = &'a str> {
    let above = path.strip_suffix("/additionalProperties").unwrap_or_default();
    let named = schema.pointer(above).and_then(|schema| schema.get("properties"));
    let fields = object.and_then(Json::as_object).into_iter();
    fields
        .flat_map(|fields| fields.keys())
        .map(String::as_str)
        .filter(move |name| named.is_none_or(|named| named.get(name).is_none()))
}

/// The wanted types, several in the order the schema has them.
fn wanted(kind: &TypeKind, written: Option<&Json>) -> String {
    match (kind, written.and_then(Json::as_array)) {
        (TypeKind::Single(kind), _) => kind.to_string(),
        (TypeKind::Multiple(_), Some(written)) => {
            format!("[{}]", written.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(","))
        }
        (TypeKind::Multiple(kinds), None) => {
            format!("[{}]", kinds.iter().map(|kind| kind.to_string()).collect::<Vec<_>>().join(","))
        }
    }
}

fn given(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(number) if number.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn combination_of(value: &Json) -> &'static str {
    if value.is_number() { "number" } else { given(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(document: &str, schema: &str, want: &[(&str, &str, &str)]) {
        let answer = match_schema(&[
            Value::from(format!(r#"{{"v": {document}}}"#)),
            Value::from(format!(r#"{{"properties": {{"v": {schema}}}}}"#)),
        ])
        .unwrap();
        let errors = answer[1].as_array().unwrap();
        let got: Vec<(&str, &str, &str)> = errors
            .iter()
            .map(|error| {
                let text = |name: &str| &**error[name].as_string().unwrap();
                (text("type"), text("field"), text("desc"))
            })
            .collect();
        assert_eq!(got, want, "{document} {schema}");
        assert_eq!(answer[0], Value::from(want.is_empty()));
    }

    #[test]
    fn descriptions_are_those_of_opa() {
        check("5", "{}", &[]);
        check("5", r#"{"minimum": 10}"#, &[("number_gte", "v", "Must be greater than or equal to 10")]);
        check("5", r#"{"exclusiveMaximum": 1}"#, &[("number_lt", "v", "Must be less than 1")]);
        check(
            r#""abc""#,
            r#"{"minLength": 5, "pattern": "^x"}"#,
            &[
                ("string_gte", "v", "String length must be greater than or equal to 5"),
                ("pattern", "v", "Does not match pattern '^x'"),
            ],
        );
        check(
            r#""a""#,
            r#"{"enum": ["x", 1]}"#,
            &[("enum", "v", r#"v must be one of the following: "x", 1"#)],
        );
        check("3", r#"{"multipleOf": 2}"#, &[("multiple_of", "v", "Must be a multiple of 2")]);
        check(r#""a""#, r#"{"format": "email"}"#, &[("format", "v", "Does not match format 'email'")]);
        check(
            "3",
            r#"{"not": {"type": "integer"}}"#,
            &[("number_not", "v", "Must not validate the schema (not)")],
        );
        check(
            "3",
            r#"{"type": ["string", "null"]}"#,
            &[("invalid_type", "v", "Invalid type. Expected: [string,null], given: integer")],
        );
        check(
            "[1, 2]",
            r#"{"items": [{"type": "string"}], "additionalItems": false}"#,
            &[
                ("invalid_type", "v.0", "Invalid type. Expected: string, given: integer"),
                ("array_no_additional_items", "v", "No additional items allowed on array"),
            ],
        );
        check(
            r#"{"a": 1}"#,
            r#"{"required": ["b"], "additionalProperties": false}"#,
            &[
                ("required", "v", "b is required"),
                ("additional_property_not_allowed", "v", "Additional property a is not allowed"),
            ],
        );
        check("1", "false", &[("false", "v", "False always fails validation")]);
    }

    #[test]
    fn schemas_are_checked_and_never_fetched() {
        let verify = |schema: &str| verify_schema(&[Value::from(schema)]).unwrap()[0].clone();
        assert_eq!(verify(r#"{"type": "boolean"}"#), Value::from(true));
        for wrong in [
            r#"{"properties": {"a": {"type": "nonsense"}}}"#,
            r#"{"properties": 1}"#,
            r#"{"$ref": "http://127.0.0.1:1/x"}"#,
            r#"{"pattern": "["}"#,
            "{",
        ] {
            assert_eq!(verify(wrong), Value::from(false), "{wrong}");
        }
        let long = format!(r#"{{"description": "{}"}}"#, "x".repeat(SCHEMA_BYTES_MAX));
        assert!(matches!(verify_schema(&[Value::from(long)]), Err(Failure::Refused(_))));
        assert!(match_schema(&[Value::from(1), Value::from("{}")]).is_err());
    }
}
