//! Results that can never be decisions: found before a policy is served, instead of one request after the other.
//!
//! What a rule's text leaves open is taken for whatever the contract wants at its place, so that nothing is refused here
//! that could be a decision for some input. What a decision is, only [`Decision::parse`] says.

use std::collections::BTreeMap;

use regorus::Value;

use crate::contract::decision::{self, Decision, DecisionError, Phase, Problem};
use crate::policy::decide::{self, Failure};
use crate::rego::builtin::closest;
use crate::rego::fault::Fault;
use crate::rego::program::{Entrypoint, Program};
use crate::rego::tree::{Extent, ModuleId, Rule, Shape, Term, TermKind, Tree};

/// The stable name of these faults.
const CODE: &str = "bad_decision";

/// What is wrong with the values that the rules at `entrypoint` are written to have.
pub fn check(program: &Program, entrypoint: &Entrypoint, phase: Phase) -> Vec<Fault> {
    let tree = program.tree();
    let path = entrypoint.path();
    let below = tree.rules.iter().filter(|rule| rule.path.starts_with(path) && !rule.is_function());
    let written: Vec<Fault> = below.flat_map(|rule| written(tree, rule, path.len(), phase)).collect();
    if !written.is_empty() {
        return written;
    }
    constant(program, entrypoint, phase).into_iter().collect()
}

/// The fault of a rule that has the same answer whatever the request, where that is no decision.
fn constant(program: &Program, entrypoint: &Entrypoint, phase: Phase) -> Option<Fault> {
    let ruling = decide::constant(program, entrypoint, phase)?;
    match ruling.decision {
        // Time passes for other reasons than the policy's.
        Ok(_) | Err(Failure::Budget) => return None,
        Err(Failure::Undefined | Failure::Error | Failure::Panic | Failure::Result) => {}
    }
    let tree = program.tree();
    let mut rules = tree.rules.iter().filter(|rule| rule.path.starts_with(entrypoint.path()));
    let rule = rules.next()?;
    let message = ruling.error.unwrap_or_default();
    let fault = Fault::new(tree.place(rule.module, rule.extent.start), CODE, message);
    Some(fault.hint("the rule reads no input, so every request would fail; give it a boolean or an object"))
}

/// The faults of each value a rule is written to have: its head's and those of its `else`s.
fn written(tree: &Tree, rule: &Rule, length: usize, phase: Phase) -> Vec<Fault> {
    // What has a computed key may be anything.
    let is_open = !rule.keys.is_empty();
    let Some(below) = rule.path.get(length..).filter(|_| !is_open) else { return Vec::new() };
    let values = rule.value.iter().chain(rule.branches.iter().filter_map(|branch| branch.value.as_ref()));
    let judge = |value: &Term| {
        let mut draft = Draft { tree, module: rule.module, parts: Vec::new(), holes: Vec::new() };
        let root = draft.nest(below, &rule.shape, value, "");
        draft.faults(root, rule, phase)
    };
    values.flat_map(judge).collect()
}

/// A value as far as a text tells it.
struct Draft<'a> {
    tree: &'a Tree,
    module: ModuleId,
    /// Where each part of it is written.
    parts: Vec<Part>,
    /// The parts of it that the text leaves open.
    holes: Vec<Hole>,
}

/// A part of a value, by the path that [`DecisionError`] has for it.
struct Part {
    path: String,
    key: Extent,
    value: Extent,
}

/// An open part, and what it is taken for.
struct Hole {
    path: String,
    guess: usize,
}

/// A value with numbered holes.
#[derive(Clone)]
enum Sketch {
    Known(Value),
    Hole(usize),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// One of each kind of value that the contract wants anywhere. One of them fits each place where anything does.
fn guesses() -> [Value; 11] {
    let text = Value::from;
    let limit = [("name", "x"), ("key", "x"), ("rate", "1/1s")].map(|(key, value)| (text(key), text(value)));
    [
        text("x"),
        Value::from(true),
        Value::from(1_u64),
        Value::from(400_u64),
        text("1/1s"),
        text("2s"),
        text("/"),
        text("full"),
        Value::new_array(),
        Value::new_object(),
        Value::from(BTreeMap::from(limit)),
    ]
}

// === impl Draft ===

impl Draft<'_> {
    /// The value at `below`, the rest of a rule's path: `decision.limits contains {..}`.
    fn nest(&mut self, below: &[String], shape: &Shape, term: &Term, path: &str) -> Sketch {
        if let Some((first, rest)) = below.split_first() {
            let path = member(path, first);
            self.parts.push(Part { path: path.clone(), key: term.extent, value: term.extent });
            return Sketch::Object(vec![(first.clone(), self.nest(rest, shape, term, &path))]);
        }
        match shape {
            Shape::Set => Sketch::List(vec![self.sketch(term, &format!("{path}[0]"))]),
            Shape::Value | Shape::Function(_) => self.sketch(term, path),
        }
    }

    fn sketch(&mut self, term: &Term, path: &str) -> Sketch {
        self.parts.push(Part { path: path.to_owned(), key: term.extent, value: term.extent });
        match &term.kind {
            TermKind::Scalar(value) => Sketch::Known(value.clone()),
            TermKind::Array(items) => {
                let items = items.iter().enumerate();
                Sketch::List(
                    items.map(|(index, item)| self.sketch(item, &format!("{path}[{index}]"))).collect(),
                )
            }
            TermKind::Object(fields) => {
                let named = fields.iter().map(|(key, value)| Some((key, key.constant_key()?, value)));
                match named.collect::<Option<Vec<_>>>() {
                    Some(named) => Sketch::Object(self.fields(named, path)),
                    None => self.hole(path),
                }
            }
            // The places of a set's elements are not those of its text.
            TermKind::Set(_)
            | TermKind::Wildcard
            | TermKind::Local(_)
            | TermKind::Input
            | TermKind::Data
            | TermKind::Reference { .. }
            | TermKind::Call { .. }
            | TermKind::Comprehension { .. }
            | TermKind::Infix { .. }
            | TermKind::Unify { .. }
            | TermKind::Membership { .. }
            | TermKind::Negative(_) => self.hole(path),
        }
    }

    fn fields(&mut self, named: Vec<(&Term, &str, &Term)>, path: &str) -> Vec<(String, Sketch)> {
        let field = |(key, name, value): (&Term, &str, &Term)| {
            let path = member(path, name);
            let sketch = self.sketch(value, &path);
            self.parts.push(Part { path, key: key.extent, value: value.extent });
            (name.to_owned(), sketch)
        };
        named.into_iter().map(field).collect()
    }

    fn hole(&mut self, path: &str) -> Sketch {
        self.holes.push(Hole { path: path.to_owned(), guess: 0 });
        Sketch::Hole(self.holes.len() - 1)
    }

    /// Every fault of the value: each is taken out to find the next.
    fn faults(mut self, mut root: Sketch, rule: &Rule, phase: Phase) -> Vec<Fault> {
        let mut faults = Vec::new();
        // A rule below the entry point gives one of several parts.
        let is_part = matches!(&root, Sketch::Object(fields) if !fields.iter().any(|(name, _)| name == "allow"))
            && self.parts.first().is_some_and(|part| !part.path.is_empty());
        if let (true, Sketch::Object(fields)) = (is_part, &mut root) {
            fields.push(("allow".to_owned(), Sketch::Known(Value::from(true))));
        }
        while let Some(error) = self.refusal(&root, phase) {
            faults.push(self.fault(&error, rule));
            let Sketch::Object(fields) = &mut root else { break };
            let first = error.path.split(['.', '[']).next().unwrap_or_default();
            fields.retain(|(name, _)| name != first);
            if first == "allow" {
                fields.push((first.to_owned(), Sketch::Known(Value::from(true))));
            }
        }
        faults
    }

    /// Why the value is no decision whatever its holes are filled with.
    fn refusal(&mut self, root: &Sketch, phase: Phase) -> Option<DecisionError> {
        let guesses = guesses();
        if matches!(root, Sketch::Hole(_)) {
            return None;
        }
        loop {
            let error = Decision::parse(&self.filled(root, &guesses), phase).err()?;
            if let Some(hole) = self.holes.iter_mut().find(|hole| is_within(&error.path, &hole.path)) {
                hole.guess += 1;
                if hole.guess == guesses.len() {
                    // Nothing fits there.
                    return Some(error);
                }
            } else if self.holes.iter().any(|hole| is_within(&hole.path, &error.path)) {
                // It may be the guess that does not go with the rest.
                return None;
            } else {
                return Some(error);
            }
        }
    }

    fn filled(&self, sketch: &Sketch, guesses: &[Value]) -> Value {
        match sketch {
            Sketch::Known(value) => value.clone(),
            Sketch::Hole(index) => {
                let guess = self.holes.get(*index).and_then(|hole| guesses.get(hole.guess));
                guess.cloned().unwrap_or(Value::Undefined)
            }
            Sketch::List(items) => {
                Value::from(items.iter().map(|item| self.filled(item, guesses)).collect::<Vec<_>>())
            }
            Sketch::Object(fields) => {
                let mut value = Value::new_object();
                if let Ok(object) = value.as_object_mut() {
                    for (name, field) in fields {
                        object.insert(Value::from(name.as_str()), self.filled(field, guesses));
                    }
                }
                value
            }
        }
    }

    fn fault(&self, error: &DecisionError, rule: &Rule) -> Fault {
        let near =
            self.parts.iter().filter(|part| part.path.is_empty() || is_within(&error.path, &part.path));
        let near = near.max_by_key(|part| part.path.len());
        let extent = near.map_or(rule.extent, |part| match error.problem {
            Problem::UnknownKey | Problem::WrongPhase | Problem::ReservedHeader | Problem::NotBuilt => {
                part.key
            }
            Problem::Type(_) | Problem::Missing | Problem::Invalid(_) | Problem::Rate(_) => part.value,
        });
        let place = self.tree.place(self.module, extent.start);
        Fault::new(place, CODE, error.to_string()).hint(hint(error))
    }
}

fn member(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Whether `path` is `outer` or a part of it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn hint(error: &DecisionError) -> String {
    match &error.problem {
        Problem::UnknownKey => {
            let name = error.path.rsplit('.').next().unwrap_or_default();
            match closest(name, decision::KEYS.into_iter()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "take it out; values of your own belong in `log.fields` or `labels`".to_owned(),
            }
        }
        Problem::Missing => "add it; without it no request can be decided".to_owned(),
        Problem::WrongPhase => "decide it in the request phase".to_owned(),
        Problem::ReservedHeader => {
            "leave the headers of the connection and of routing to the gateway".to_owned()
        }
        Problem::NotBuilt => "take it out until this version keeps it".to_owned(),
        Problem::Type(_) | Problem::Invalid(_) | Problem::Rate(_) => {
            "every request that gets this value would fail with 503".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::program::{Module, Options, compile};

    #[track_caller]
    fn check_in(phase: Phase, text: &str, want: &[(&str, &str)]) {
        let modules = vec![Module { path: "p.rego".into(), text: format!("package gateway\n{text}\n") }];
        let program =
            compile(&modules, Value::new_object(), Options::default()).unwrap_or_else(|e| panic!("{e}"));
        let mut faults = check(&program, &program.entrypoint("gateway/decision").unwrap(), phase);
        faults.sort();
        let got: Vec<(String, String)> = faults
            .into_iter()
            .map(|fault| (format!("{}:{}", fault.place.line, fault.place.column), fault.message))
            .collect();
        assert_eq!(got.len(), want.len(), "{text}: {got:?}");
        for ((place, message), (want_place, part)) in got.iter().zip(want) {
            assert_eq!(place, want_place, "{text}: {message}");
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[track_caller]
    fn refused(text: &str, want: &[(&str, &str)]) {
        check_in(Phase::Request, text, want);
    }

    #[track_caller]
    fn accepted(text: &str) {
        refused(text, &[]);
    }

    #[test]
    fn what_can_never_be_a_decision_is_refused_where_it_stands() {
        refused("decision := \"yes\"", &[("2:13", "must be a boolean or an object")]);
        refused("decision := 1 if input.x", &[("2:13", "must be a boolean or an object")]);
        refused("decision contains \"a\" if input.x", &[("2:1", "must be a boolean")]);
        refused("decision := {\"allow\": \"true\"} if input.x", &[("2:23", "must be a boolean")]);
        refused(
            "decision := {\"alow\": true} if input.x",
            &[("2:13", "is required"), ("2:14", "unknown key")],
        );
        refused("decision := {\"allow\": true, \"foo\": input.y}", &[("2:29", "unknown key")]);
        refused("default decision := {\"allow\": false, \"status\": 200}", &[("2:48", "300 to 599")]);
        refused(
            "decision := true if { input.x } else := {\"allow\": false, \"reason\": 5}",
            &[("2:68", "must be a string")],
        );
        refused(
            "decision := true if input.x\ndecision := {\"allow\": true, \"max_body\": 1.5} if input.y",
            &[("3:41", "whole number")],
        );
    }

    #[test]
    fn constants_beside_open_parts_are_judged() {
        let limit = "decision := {\"allow\": input.ok, \"limits\": [{\"name\": \"a\", \"key\": input.k, ";
        refused(&format!("{limit}\"rate\": \"10/fortnight\"}}]}}"), &[("2:82", "unit of time")]);
        refused(&format!("{limit}\"rat\": \"10/1s\"}}]}}"), &[("2:74", "unknown key")]);
        accepted(&format!("{limit}\"rate\": input.rate, \"burst\": 100000000000}}]}}"));
        accepted(&format!("{limit}\"rate\": \"10/1s\", \"burst\": input.b, \"cost\": input.c}}]}}"));
        let headers = "decision := {\"allow\": true, \"upstream\": {\"headers\": {\"set\": ";
        refused(&format!("{headers}{{\"a b\": input.x}}}}}}}}"), &[("2:69", "not a header name")]);
        refused(&format!("{headers}{{\"Host\": input.x}}}}}}}}"), &[("2:62", "cannot set this header")]);
        accepted(&format!("{headers}{{input.name: \"x\"}}}}}}}}"));
    }

    #[test]
    fn whatever_may_be_right_for_some_input_is_accepted() {
        for key in ["allow", "reason", "status", "headers", "body", "expose_reason", "upstream", "response"] {
            let allow = if key == "allow" { "" } else { "\"allow\": input.a, " };
            accepted(&format!("decision := {{{allow}\"{key}\": input.v}}"));
        }
        for key in ["limits", "max_body", "log", "labels"] {
            accepted(&format!("decision := {{\"allow\": true, \"{key}\": input.v}}"));
        }
        for below in [
            "\"upstream\": {\"name\": X, \"path\": X, \"headers\": X, \"query\": X, \"timeout\": X}",
            "\"upstream\": {\"headers\": {\"set\": X, \"add\": X, \"remove\": X}, \"query\": {\"set\": X, \"remove\": X}}",
            "\"upstream\": {\"headers\": {\"set\": {\"a\": X, \"b\": [X]}, \"remove\": [X, \"y\"]}, \"query\": {\"set\": {\"q\": X}}}",
            "\"response\": {\"headers\": {\"set\": {\"a\": X}}}",
            "\"limits\": [X, {\"name\": X, \"key\": X, \"rate\": X, \"burst\": X, \"cost\": X}]",
            "\"log\": {\"level\": X, \"fields\": {\"a\": X}}, \"labels\": {\"l\": X}",
            "\"headers\": {\"a\": X}, \"body\": {\"any\": X}, \"status\": X",
        ] {
            accepted(&format!("decision := {{\"allow\": X, {below}}}").replace('X', "input.x"));
        }
        accepted("decision := input.anything");
        accepted("decision := d if { d := {\"allow\": true} }");
        accepted("decision := object.union({\"allow\": true}, input.x)");
        accepted("decision[k] := v if some k, v in input.x");
        accepted(
            "decision.allow := input.x\ndecision.limits contains {\"name\": \"a\", \"key\": \"b\", \"rate\": \"1/1s\"} if input.y",
        );
    }

    #[test]
    fn rules_below_the_entry_point_are_parts_of_it() {
        refused("decision.allow := true\ndecision.alow := input.x", &[("3:18", "unknown key")]);
        refused("decision.allow := \"x\" if input.x", &[("2:19", "must be a boolean")]);
    }

    #[test]
    fn a_constant_answer_is_asked_for() {
        refused("decision := x if x := concat(\"\", [\"y\"])", &[("2:1", "must be a boolean or an object")]);
        refused("decision if 1 > 2", &[("2:1", "undefined")]);
        accepted("decision := x if x := 1 > 2");
        accepted("decision if input.x");
    }

    #[test]
    fn the_response_phase_has_fewer_keys() {
        let text = "decision := {\"allow\": input.x, \"max_body\": 5}";
        check_in(Phase::Response, text, &[("2:32", "response phase")]);
        accepted(text);
    }
}
