//! `graphql.*`: parsing and validation of GraphQL documents (the specification of October 2021).
//!
//! Documents come as text or as the syntax trees these built-ins give out, whose shape is OPA's.
//! Comments are not part of the trees here. Depth, length and the work of one validation are bounded.

mod ast;
mod lexer;
mod parser;
mod schema;
mod validate;

use std::collections::BTreeMap;

use regorus::Value;
use serde::{Serialize, de::DeserializeOwned};

use self::{
    ast::{QueryDocument, SchemaDocument},
    parser::Parser,
    schema::Schema,
};
use super::{Entry, Failure, argument};

pub(super) const TABLE: &[Entry] = &[
    ("graphql.is_valid", 2, is_valid),
    ("graphql.parse", 2, parse),
    ("graphql.parse_and_verify", 2, parse_and_verify),
    ("graphql.parse_query", 1, |arguments| to_value(&Parser::query(argument::string(arguments, 0)?)?)),
    ("graphql.parse_schema", 1, |arguments| to_value(&Parser::schema(argument::string(arguments, 0)?)?)),
    ("graphql.schema_is_valid", 1, schema_is_valid),
];

fn query_of(value: &Value) -> Result<QueryDocument, Failure> {
    if let Value::String(text) = value { Parser::query(text) } else { from_value(value) }
}

fn schema_of(value: &Value) -> Result<SchemaDocument, Failure> {
    if let Value::String(text) = value { Parser::schema(text) } else { from_value(value) }
}

fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Failure> {
    let unreadable = |reason: &str| Failure::Error(format!("no GraphQL document: {reason}"));
    if !matches!(value, Value::Object(_)) {
        return Err(unreadable("neither text nor object"));
    }
    if depth(value, 0) > ast::VALUE_DEPTH_MAX {
        return Err(Failure::Refused("document is nested too deep".to_owned()));
    }
    let json = serde_json::to_value(value).map_err(|error| unreadable(&error.to_string()))?;
    serde_json::from_value(json).map_err(|error| unreadable(&error.to_string()))
}

/// The depth of a value, not looked at further than it may be.
fn depth(value: &Value, above: usize) -> usize {
    if above > ast::VALUE_DEPTH_MAX {
        return above;
    }
    let below = |depth_so_far: usize, value: &Value| depth_so_far.max(depth(value, above + 1));
    match value {
        Value::Array(items) => items.iter().fold(above, below),
        Value::Set(items) => items.iter().fold(above, below),
        Value::Object(fields) => fields.iter().fold(above, |deepest, (_, value)| below(deepest, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => above,
    }
}

/// The tree as OPA gives it out: nulls and what is empty left out.
fn to_value(document: &impl Serialize) -> Result<Value, Failure> {
    let json = serde_json::to_value(document).map_err(|error| Failure::Error(error.to_string()))?;
    Ok(pruned(json).unwrap_or_else(Value::new_object))
}

fn pruned(json: serde_json::Value) -> Option<Value> {
    match json {
        serde_json::Value::Null => None,
        serde_json::Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().filter_map(pruned).collect();
            (!items.is_empty()).then(|| Value::from(items))
        }
        serde_json::Value::Object(fields) => {
            let fields: BTreeMap<Value, Value> = fields
                .into_iter()
                .filter_map(|(name, value)| Some((Value::from(name), pruned(value)?)))
                .collect();
            (!fields.is_empty()).then(|| Value::from(fields))
        }
        scalar @ (serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_)) => Some(Value::from(scalar)),
    }
}

fn verified(arguments: &[Value]) -> Result<(Value, Value), Failure> {
    let query = query_of(argument::get(arguments, 0)?)?;
    let document = schema_of(argument::get(arguments, 1)?)?;
    let trees = (to_value(&query)?, to_value(&document)?);
    validate::validate(&Schema::new(document)?, &query)?;
    Ok(trees)
}

fn parse(arguments: &[Value]) -> Result<Value, Failure> {
    let (query, schema) = verified(arguments)?;
    Ok(Value::from(vec![query, schema]))
}

fn parse_and_verify(arguments: &[Value]) -> Result<Value, Failure> {
    match verified(arguments) {
        Ok((query, schema)) => Ok(Value::from(vec![Value::from(true), query, schema])),
        Err(Failure::Error(_)) => {
            Ok(Value::from(vec![Value::from(false), Value::new_object(), Value::new_object()]))
        }
        Err(ends @ (Failure::Refused(_) | Failure::Unanswered(_))) => Err(ends),
    }
}

fn is_valid(arguments: &[Value]) -> Result<Value, Failure> {
    holds(verified(arguments))
}

fn schema_is_valid(arguments: &[Value]) -> Result<Value, Failure> {
    holds(schema_of(argument::get(arguments, 0)?).and_then(Schema::new))
}

fn holds<T>(outcome: Result<T, Failure>) -> Result<Value, Failure> {
    match outcome {
        Ok(_) => Ok(Value::from(true)),
        Err(Failure::Error(_)) => Ok(Value::from(false)),
        Err(ends @ (Failure::Refused(_) | Failure::Unanswered(_))) => Err(ends),
    }
}

#[cfg(test)]
mod tests;
