//! An explanation as text and as JSON, with its values or without.

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use super::{BodyWhy, Condition, Explanation, RuleWhy};
use crate::policy::replay::Refused;

/// How a part of the text may be set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// A rule's name.
    Strong,
    /// What holds.
    Good,
    /// What does not hold.
    Bad,
    /// An expression that was read.
    Faint,
}

/// Says that no policy was asked.
pub fn refused_text(refused: &Refused, out: &mut dyn Write) -> io::Result<()> {
    let Refused { reason, status } = refused;
    writeln!(out, "no policy was asked: the gateway itself refused the request with {status}, `{reason}`")
}

/// As [`refused_text`], as one object.
pub fn refused_document(refused: &Refused) -> Json {
    json!({"refused": {"reason": refused.reason, "status": refused.status}})
}

/// Says that the policy may have read what is not in the event.
pub fn missing(pointer: &str) -> String {
    format!(
        "the event lacks `{pointer}`, which the policy may have read: where it did, this is not what happened"
    )
}

/// Writes an explanation for people; `redacted` without all values.
pub fn text(
    explanation: &Explanation,
    redacted: bool,
    paint: &dyn Fn(Tone, &str) -> String,
    out: &mut dyn Write,
) -> io::Result<()> {
    Printer { out, paint, redacted }.rule(&explanation.rule, 0)
}

/// An explanation as one object; `redacted` without all values.
pub fn document(explanation: &Explanation, redacted: bool) -> Json {
    let mut document = json!({"rule": rule(&explanation.rule, redacted)});
    let result = explanation.result.as_ref().and_then(|result| result.to_json_str().ok());
    if let (Some(fields), Some(result), false) = (document.as_object_mut(), result, redacted) {
        fields.insert("result".to_owned(), serde_json::from_str(&result).unwrap_or_default());
    }
    document
}

/// Writes an explanation for people.
struct Printer<'a> {
    out: &'a mut dyn Write,
    paint: &'a dyn Fn(Tone, &str) -> String,
    redacted: bool,
}

impl Printer<'_> {
    fn rule(&mut self, rule: &RuleWhy, depth: usize) -> io::Result<()> {
        let indent = "  ".repeat(depth);
        let name = (self.paint)(Tone::Strong, &rule.name);
        let name =
            if self.redacted { rule.name.split('(').next().unwrap_or_default().to_owned() } else { name };
        let value = match &rule.value {
            _ if rule.name.ends_with(')') => String::new(),
            None => " is undefined".to_owned(),
            Some(_) if self.redacted => String::new(),
            Some(value) => format!(" = {value}"),
        };
        let stands = if rule.negated { ", and it must not hold" } else { "" };
        writeln!(self.out, "{indent}{name}{value}{stands}")?;
        for body in &rule.bodies {
            self.body(body, depth + 1)?;
        }
        Ok(())
    }

    fn body(&mut self, body: &BodyWhy, depth: usize) -> io::Result<()> {
        let indent = "  ".repeat(depth);
        let BodyWhy { place, held, conditions, failed, causes } = body;
        let Some(failed) = failed else {
            let all = if *conditions == 0 {
                "unconditional".to_owned()
            } else {
                format!("all {conditions} conditions hold")
            };
            writeln!(self.out, "{indent}{place}: {}", (self.paint)(Tone::Good, &all))?;
            return causes.iter().try_for_each(|cause| self.rule(cause, depth + 1));
        };
        let verdict = format!("condition {} of {conditions} does not hold", held + 1);
        writeln!(self.out, "{indent}{place}: {}", (self.paint)(Tone::Bad, &verdict))?;
        let lines = failed.expression.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        writeln!(self.out, "{indent}  line {}: {lines}", failed.place.line)?;
        for (expression, value) in failed.values.iter().filter(|_| !self.redacted) {
            writeln!(self.out, "{indent}    {} = {value}", (self.paint)(Tone::Faint, expression))?;
        }
        failed.causes.iter().try_for_each(|cause| self.rule(cause, depth + 1))
    }
}

fn rule(why: &RuleWhy, redacted: bool) -> Json {
    let name = if redacted { why.name.split('(').next().unwrap_or_default() } else { &why.name };
    let value = why.value.as_ref().filter(|_| !redacted);
    let bodies: Vec<Json> = why.bodies.iter().map(|why| body(why, redacted)).collect();
    json!({"name": name, "value": value, "negated": why.negated, "bodies": bodies})
}

fn body(why: &BodyWhy, redacted: bool) -> Json {
    json!({
        "location": {"file": &*why.place.file, "row": why.place.line, "col": why.place.column},
        "held": why.held,
        "conditions": why.conditions,
        "failed": why.failed.as_ref().map(|why| condition(why, redacted)),
        "causes": why.causes.iter().map(|why| rule(why, redacted)).collect::<Vec<_>>(),
    })
}

fn condition(why: &Condition, redacted: bool) -> Json {
    let values = why.values.iter().filter(|_| !redacted);
    let values = values.map(|(expression, value)| json!({"expression": expression, "value": value}));
    json!({
        "location": {"file": &*why.place.file, "row": why.place.line, "col": why.place.column},
        "expression": why.expression,
        "values": values.collect::<Vec<_>>(),
        "causes": why.causes.iter().map(|why| rule(why, redacted)).collect::<Vec<_>>(),
    })
}
