//! The JSON Schema of the configuration, and the check of a document against it.
//!
//! The schema decides about keys and types; patterns in it are for editors only, because `config::check` reads the same
//! texts and can say more about them.

use std::sync::LazyLock;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{JsonType, ValidationError, Validator};
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::Value;

use crate::config::place::{Place, Step};
use crate::config::raw::Gateway;
use crate::config::raw::quantity::{DURATION_PATTERN, NAME_HELP};
use crate::config::report::{At, Report};
use crate::config::suggest::{listed, suggestion};
use crate::config::yaml::{Data, Node, Scalar, quotable};

static SCHEMA: LazyLock<Value> = LazyLock::new(generate);
static VALIDATOR: LazyLock<Option<Validator>> = LazyLock::new(|| jsonschema::draft202012::new(&SCHEMA).ok());

/// The schema, JSON Schema draft 2020-12.
pub(super) fn schema() -> &'static Value {
    &SCHEMA
}

fn generate() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(NoNull))
        .with_transform(RecursiveTransform(plain));
    settings.into_generator().into_root_schema_for::<Gateway>().to_value()
}

/// Takes `null` out of optional fields: a key without a value is refused, because it rarely means what it does.
#[derive(Debug, Clone)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(mut branches)) = schema.remove("anyOf") {
            branches.retain(|branch| branch.get("type").is_none_or(|name| name != "null"));
            match branches.as_mut_slice() {
                [Value::Object(only)] => schema.ensure_object().append(only),
                _ => drop(schema.insert("anyOf".to_owned(), Value::Array(branches))),
            }
        }
    }
}

/// Takes out what describes Rust rather than the file: line breaks of doc comments and the formats of numbers.
fn plain(schema: &mut Schema) {
    schema.remove("format");
    if let Some(Value::String(description)) = schema.get_mut("description") {
        let paragraphs: Vec<String> = description.split("\n\n").map(|text| text.replace('\n', " ")).collect();
        *description = paragraphs.join("\n\n");
    }
}

/// Notes every way in which the document does not fit the schema, and settles those places.
pub(super) fn check(root: &Node, document: &Value, report: &mut Report) {
    let Some(validator) = &*VALIDATOR else {
        report.error(&Place::root(), "the schema of the configuration does not compile");
        return;
    };
    let mut check = Check { root, report };
    for error in validator.iter_errors(document) {
        check.fault(&error);
    }
}

struct Check<'a> {
    root: &'a Node,
    report: &'a mut Report,
}

impl Check<'_> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other 30 kinds are bounds, or not in our schema")]
    fn fault(&mut self, error: &ValidationError<'_>) {
        let place = place(error.instance_path());
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                for key in unexpected {
                    match known_keys(error.schema_path()) {
                        Some(known) => self.unknown_key(&place, key, &known),
                        None => self.bad_name(&place, key),
                    }
                }
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                self.missing_key(&place, name, &first_sentence(error.schema_path(), name));
            }
            ValidationErrorKind::OneOfNotValid { context } => match choices(error.schema_path()) {
                Choices::Values(options) => self.not_an_option(&place, &options),
                Choices::Types(types) => self.no_branch(&place, &types, context),
            },
            ValidationErrorKind::Enum { options } => {
                let options = options.as_array().into_iter().flatten().filter_map(Value::as_str);
                self.not_an_option(&place, &options.map(str::to_owned).collect::<Vec<_>>());
            }
            ValidationErrorKind::Type { kind } => self.wrong_type(&place, kind, error.schema_path()),
            // The checks say more about these.
            ValidationErrorKind::Pattern { .. } | ValidationErrorKind::Format { .. } => {}
            kind => self.out_of_bounds(&place, kind, error.schema_path()),
        }
    }

    fn unknown_key(&mut self, place: &Place, key: &str, known: &[String]) {
        let at = place.key(key);
        let help = if key == "<<" {
            "merge keys are not supported; use a plain alias, or write the keys out".to_owned()
        } else {
            suggestion(key, known.iter().map(String::as_str))
                .unwrap_or_else(|| format!("the keys here are {}", listed(known)))
        };
        let message = format!("unknown key `{}`", quotable(key));
        let reported = self.report.error_with(At::Key(at.clone()), message, help);
        self.report.discard(at, reported);
    }

    fn bad_name(&mut self, place: &Place, key: &str) {
        let at = place.key(key);
        let message = format!("`{}` is not a name", quotable(key));
        let reported = self.report.error_with(At::Key(at.clone()), message, NAME_HELP);
        self.report.discard(at, reported);
    }

    fn missing_key(&mut self, place: &Place, name: &str, about: &str) {
        let at = place.key(name);
        let reported = self.report.error_with(&at, format!("missing key `{name}`"), about);
        self.report.settle(at, reported);
    }

    /// None of the `type`s of a provider or a decision log fits: the one that is meant says why.
    fn no_branch(&mut self, place: &Place, types: &[String], context: &[Vec<ValidationError<'static>>]) {
        let Some(node) = self.root.get(place) else { return };
        let Data::Mapping(_) = node.data else {
            let message = format!("{} must be a mapping, not {}", label(place), kind_of(node));
            self.fail(place, message, "begin it with `type`");
            return;
        };
        let tag = place.key("type");
        let Some(meant) = node.field("type") else {
            self.missing_key(place, "type", &format!("it is one of {}", listed(types)));
            return;
        };
        let meant = meant.to_value();
        let index = types.iter().position(|name| meant == name.as_str());
        match index.and_then(|index| context.get(index)) {
            Some(errors) => errors.iter().for_each(|error| self.fault(error)),
            None => self.not_an_option(&tag, types),
        }
    }

    fn not_an_option(&mut self, place: &Place, options: &[String]) {
        let Some(node) = self.root.get(place) else { return };
        let shown = self.root.shown(place);
        let help = if shown.eq_ignore_ascii_case("none") && place.to_string().contains("algorithms") {
            "a token without a signature proves nothing".to_owned()
        } else if options.contains(&shown) && !matches!(node.to_value(), Value::String(_)) {
            format!("put it in quotes: `\"{shown}\"`")
        } else {
            suggestion(&shown, options.iter().map(String::as_str)).unwrap_or_default()
        };
        let message = format!("`{shown}` is not one of {}", listed(options));
        self.fail(place, message, &help);
    }

    fn wrong_type(&mut self, place: &Place, kind: &TypeKind, schema_path: &Location) {
        let Some(node) = self.root.get(place) else { return };
        let wanted: Vec<JsonType> = match kind {
            TypeKind::Single(one) => vec![*one],
            TypeKind::Multiple(several) => several.iter().collect(),
        };
        let names: Vec<&str> = wanted.iter().map(|one| type_name(*one)).collect();
        let help = match &node.data {
            Data::Scalar(scalar) => scalar_help(scalar, &wanted, is_duration(schema_path)),
            Data::Sequence(_) | Data::Mapping(_) => String::new(),
        };
        let message = format!("{} must be {}, not {}", label(place), names.join(" or "), kind_of(node));
        self.fail(place, message, &help);
    }

    fn out_of_bounds(&mut self, place: &Place, kind: &ValidationErrorKind, schema_path: &Location) {
        let (label, shown) = (label(place), self.root.shown(place));
        let number = |limit: &Value| limit.as_f64().unwrap_or_default();
        let (message, help) = if let ValidationErrorKind::Minimum { limit } = kind {
            (format!("{label} must be at least {}, not `{shown}`", number(limit)), "")
        } else if let ValidationErrorKind::Maximum { limit } = kind {
            (format!("{label} must be at most {}, not `{shown}`", number(limit)), "")
        } else if let ValidationErrorKind::Constant { expected_value } = kind {
            (format!("{label} must be {expected_value}, not `{shown}`"), "this gateway reads no other")
        } else if let ValidationErrorKind::MinItems { .. } = kind {
            let help =
                if has_default(schema_path) { "leave it out for the default" } else { "one is needed" };
            (format!("{label} is empty"), help)
        } else if let ValidationErrorKind::MinProperties { .. } = kind {
            (format!("{label} is empty"), "one is needed")
        } else if let ValidationErrorKind::MinLength { .. } = kind {
            (format!("{label} is empty"), "")
        } else if let ValidationErrorKind::MaxLength { limit } = kind {
            (format!("{label} is longer than {limit} characters"), "")
        } else if let ValidationErrorKind::UniqueItems = kind {
            (format!("{label} has an item twice"), "keep one of them")
        } else {
            (format!("{label} does not fit the schema"), "`gatewayctl config schema` prints it")
        };
        self.fail(place, message, help);
    }

    /// Notes what is all there is to say about a value.
    fn fail(&mut self, place: &Place, message: String, help: &str) {
        let reported = self.report.error_with(place, message, help);
        self.report.discard(place.clone(), reported);
    }
}

/// How to write a scalar so that it has a wanted type.
fn scalar_help(scalar: &Scalar, wanted: &[JsonType], is_duration: bool) -> String {
    let source = quotable(&scalar.source);
    if scalar.interpolated {
        "a reference always gives a text".to_owned()
    } else if is_duration {
        format!("write its unit: `{source}s`")
    } else if wanted.contains(&JsonType::String) && wanted.contains(&JsonType::Integer) {
        "write a whole number and its unit: `64KiB`".to_owned()
    } else if wanted.contains(&JsonType::String) {
        format!("put it in quotes: `\"{source}\"`")
    } else if wanted.contains(&JsonType::Array) {
        format!("write `[{source}]`")
    } else if wanted.contains(&JsonType::Boolean) && scalar.value.is_string() {
        "write `true` or `false`".to_owned()
    } else {
        String::new()
    }
}

/// How a message calls the value at a place.
fn label(place: &Place) -> String {
    let mut inward = place.steps().iter().rev();
    match (inward.next(), inward.next()) {
        (Some(Step::Key(key)), _) => format!("`{}`", quotable(key)),
        (Some(Step::Index(_)), Some(Step::Key(key))) => format!("an item of `{}`", quotable(key)),
        (Some(Step::Index(_)), Some(Step::Index(_)) | None) => "an item".to_owned(),
        (None, _) => "the configuration".to_owned(),
    }
}

fn place(location: &Location) -> Place {
    location.segments().fold(Place::root(), |place, segment| match segment {
        LocationSegment::Property(key) => place.key(&key),
        LocationSegment::Index(index) => place.index(index),
    })
}

/// The schema object that holds the keyword a schema path ends with.
fn holder(schema_path: &Location) -> Option<&'static Value> {
    let (holder, _keyword) = schema_path.as_str().rsplit_once('/')?;
    SCHEMA.pointer(holder)
}

/// The keys of a mapping; `None` where they are names that the user chooses.
fn known_keys(schema_path: &Location) -> Option<Vec<String>> {
    let properties = holder(schema_path)?.get("properties")?.as_object()?;
    Some(properties.keys().cloned().collect())
}

/// Whether the value that a schema path speaks of has a default, as its documentation says.
fn has_default(schema_path: &Location) -> bool {
    let description = holder(schema_path).and_then(|schema| schema.get("description")?.as_str());
    description.is_some_and(|text| text.contains("Default "))
}

fn is_duration(schema_path: &Location) -> bool {
    let pattern = holder(schema_path).and_then(|schema| schema.get("pattern")?.as_str());
    pattern == Some(DURATION_PATTERN)
}

/// The first sentence of a property's documentation.
fn first_sentence(schema_path: &Location, property: &str) -> String {
    let description = holder(schema_path)
        .and_then(|schema| schema.get("properties")?.get(property)?.get("description")?.as_str())
        .unwrap_or_default();
    let sentence = description.split_once(". ").map_or(description, |(first, _)| first);
    sentence.trim_end_matches('.').replace('\n', " ")
}

/// What a `oneOf` chooses between.
enum Choices {
    /// Constants.
    Values(Vec<String>),
    /// Mappings told apart by the constant of their `type`.
    Types(Vec<String>),
}

fn choices(schema_path: &Location) -> Choices {
    let branches =
        SCHEMA.pointer(schema_path.as_str()).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let constants = |pointer: &str| -> Vec<String> {
        branches.iter().filter_map(|branch| branch.pointer(pointer)?.as_str()).map(str::to_owned).collect()
    };
    let types = constants("/properties/type/const");
    if types.is_empty() { Choices::Values(constants("/const")) } else { Choices::Types(types) }
}

fn kind_of(node: &Node) -> &'static str {
    match &node.data {
        Data::Sequence(_) => "a list",
        Data::Mapping(_) => "a mapping",
        Data::Scalar(scalar) => match &scalar.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(number) if number.is_f64() => "a fraction",
            Value::Number(_) => "a number",
            Value::String(_) | Value::Array(_) | Value::Object(_) => "a text",
        },
    }
}

fn type_name(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Array => "a list",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "a whole number",
        JsonType::Null => "nothing",
        JsonType::Number => "a number",
        JsonType::Object => "a mapping",
        JsonType::String => "a text",
    }
}
