//! Why a decision: which conditions hold, which is the first that does not, with the values it read.
//!
//! From the rule that was asked, only what decides is followed: rules that could have held, the rules and functions in the
//! condition at which each stopped, and under `not` the rules that hold. What is followed is evaluated again by probes,
//! rules generated beside the policy, so that the explanation is what the engine says and not what it might have done.

use std::collections::BTreeSet;

use regorus::Value;

use super::bundle::Bundle;
use super::probe::{ProbeSet, VALUES_MAX, operands, shown_values, statements, values_rule, withs};
use crate::rego::evaluator::{EvalError, Facts};
use crate::rego::fault::Place;
use crate::rego::program::{Entrypoint, Program};
use crate::rego::tree::{
    Body, Extent, ModuleId, Path, RuleId, Shape, Statement, StatementKind, Target, Term, TermKind, Tree,
    dotted, walk_term,
};

/// Rules and functions followed below one another.
const DEPTH_MAX: usize = 12;
/// Rules and functions followed in all.
const NODES_MAX: usize = 200;

/// The body of a rule that has none.
static UNCONDITIONAL: Body =
    Body { statements: Vec::new(), extent: Extent { start: 0, end: 0 }, is_delimited: false };

/// Why the answer is what it is.
#[derive(Debug)]
pub struct Explanation {
    /// The answer; `None` is undefined.
    pub result: Option<Value>,
    /// The rule that was asked.
    pub rule: RuleWhy,
}

/// A rule or function, and why it has its value.
#[derive(Debug)]
pub struct RuleWhy {
    /// Its full name, of a function with its arguments.
    pub name: String,
    /// Its value as text; `None` is undefined.
    pub value: Option<String>,
    /// It stands under `not`: what holds is what stood in the way.
    pub negated: bool,
    /// Its bodies that matter, the one that came nearest first.
    pub bodies: Vec<BodyWhy>,
}

/// A body, and how far it came.
#[derive(Debug)]
pub struct BodyWhy {
    /// Where its rule stands.
    pub place: Place,
    /// Conditions that hold, from the first.
    pub held: usize,
    /// Conditions in all.
    pub conditions: usize,
    /// The first that does not hold.
    pub failed: Option<Condition>,
    /// What decides besides: rules that the head's value comes from.
    pub causes: Vec<RuleWhy>,
}

/// A condition that does not hold.
#[derive(Debug)]
pub struct Condition {
    /// Where.
    pub place: Place,
    /// As it is written.
    pub expression: String,
    /// The expressions in it and their values.
    pub values: Vec<(String, String)>,
    /// The rules and functions in it that decided.
    pub causes: Vec<RuleWhy>,
}

/// Explains the answer to `entrypoint` for `facts`.
pub fn explain(
    bundle: &Bundle,
    program: &Program,
    entrypoint: &Entrypoint,
    facts: &Facts,
) -> Result<Explanation, EvalError> {
    let result = program.evaluator().evaluate(entrypoint, facts.clone())?;
    let mut explainer =
        Explainer { bundle, program, tree: program.tree(), facts, followed: BTreeSet::new(), nodes: 0 };
    let asked = Asked { path: entrypoint.path().to_vec(), negated: false, arguments: None };
    let mut rules = explainer.follow(vec![asked], 0);
    let unknown =
        || RuleWhy { name: entrypoint.name().to_owned(), value: None, negated: false, bodies: Vec::new() };
    Ok(Explanation { result, rule: if rules.is_empty() { unknown() } else { rules.remove(0) } })
}

/// A rule or function to be explained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    path: Path,
    negated: bool,
    /// JSON of each argument, for a function.
    arguments: Option<Vec<String>>,
}

struct Explainer<'a> {
    bundle: &'a Bundle,
    program: &'a Program,
    tree: &'a Tree,
    facts: &'a Facts,
    followed: BTreeSet<Asked>,
    nodes: usize,
}

/// One body under examination.
struct Examined<'a> {
    rule: RuleId,
    module: ModuleId,
    body: &'a Body,
    /// Statements that bind a function's parameters, as text; they are no conditions.
    bindings: String,
    held: usize,
}

impl<'a> Explainer<'a> {
    /// Explains rules of one level, and what they lead to.
    fn follow(&mut self, asked: Vec<Asked>, depth: usize) -> Vec<RuleWhy> {
        let mut explained = Vec::new();
        for asked in asked {
            if depth > DEPTH_MAX || self.nodes >= NODES_MAX || !self.followed.insert(asked.clone()) {
                continue;
            }
            self.nodes += 1;
            explained.push(self.rule(&asked, depth));
        }
        explained
    }

    fn rule(&mut self, asked: &Asked, depth: usize) -> RuleWhy {
        let value = match asked.arguments {
            None => self.value_of(&asked.path),
            Some(_) => None,
        };
        let holds = value.as_ref().is_some_and(|value| !is_refusal(value));
        let mut examined = self.examine(asked);
        // What holds explains a value; what does not hold explains why there is none.
        let wants_held = asked.negated || holds;
        examined.retain(|body| (body.held == body.body.statements.len()) == wants_held || depth == 0);
        examined.sort_by_key(|body| (body.body.statements.len() - body.held, std::cmp::Reverse(body.held)));
        let bodies = examined.into_iter().map(|body| self.body(&body, depth)).collect();
        let name = match &asked.arguments {
            None => dotted(&asked.path),
            Some(arguments) => format!("{}({})", dotted(&asked.path), arguments.join(", ")),
        };
        RuleWhy { name, value: value.map(|value| value.to_string()), negated: asked.negated, bodies }
    }

    fn value_of(&self, path: &[String]) -> Option<Value> {
        let entrypoint = self.program.entrypoint_at(path.to_vec()).ok()?;
        self.program.evaluator().evaluate(&entrypoint, self.facts.clone()).ok()?
    }

    /// How far each body of a rule comes.
    fn examine(&self, asked: &Asked) -> Vec<Examined<'a>> {
        let mut examined = Vec::new();
        for id in self.tree.rules_at(&asked.path) {
            let Some(rule) = self.tree.rule(*id).filter(|rule| !rule.is_default) else { continue };
            let bindings = match (&rule.shape, &asked.arguments) {
                (Shape::Function(parameters), Some(arguments)) => {
                    let pairs = parameters.iter().zip(arguments);
                    let bound = pairs.filter(|(parameter, _)| !matches!(parameter.kind, TermKind::Wildcard));
                    let texts = bound.map(|(parameter, argument)| {
                        format!("{} = {argument}\n", self.tree.slice(rule.module, parameter.extent))
                    });
                    texts.collect()
                }
                (Shape::Function(_) | Shape::Value | Shape::Set, _) => String::new(),
            };
            let bodies = rule.branches.iter().map(|branch| &branch.body);
            for body in bodies.chain(rule.branches.is_empty().then_some(&UNCONDITIONAL)) {
                let mut body =
                    Examined { rule: *id, module: rule.module, body, bindings: bindings.clone(), held: 0 };
                body.held = self.held(&body);
                examined.push(body);
            }
        }
        examined
    }

    fn held(&self, examined: &Examined<'_>) -> usize {
        let length = examined.body.statements.len();
        let mut probes = ProbeSet::new(self.tree);
        for length in 1..=length {
            probes.add(examined.module, &format!("if {{ {} }}", self.before(examined, length)));
        }
        let Some(answers) = probes.run(self.bundle, self.facts) else { return 0 };
        answers.iter().take_while(|answer| **answer == Some(Value::from(true))).count()
    }

    /// The first statements of a body, with what binds its parameters.
    fn before(&self, examined: &Examined<'_>, length: usize) -> String {
        format!("{}{}", examined.bindings, statements(self.tree, examined.module, examined.body, length))
    }

    fn body(&mut self, examined: &Examined<'a>, depth: usize) -> BodyWhy {
        let conditions = examined.body.statements.len();
        let failed = examined.body.statements.get(examined.held);
        let (failed, causes) = match failed {
            Some(statement) => (Some(self.condition(examined, statement, depth)), Vec::new()),
            None => (None, self.causes_in_head(examined, depth)),
        };
        let rule = self.tree.rule(examined.rule);
        let start = rule.map_or(0, |rule| rule.extent.start);
        let place = self.tree.place(examined.module, start);
        BodyWhy { place, held: examined.held, conditions, failed, causes }
    }

    /// The rules that the value of a head comes from and that do not hold.
    fn causes_in_head(&mut self, examined: &Examined<'a>, depth: usize) -> Vec<RuleWhy> {
        let Some(rule) = self.tree.rule(examined.rule) else { return Vec::new() };
        let own = rule.branches.iter().find(|branch| std::ptr::eq(&raw const branch.body, examined.body));
        let value = own.and_then(|branch| branch.value.as_ref()).or(rule.value.as_ref());
        let Some(value) = value else { return Vec::new() };
        let causes = self.rules_in(&[deciding(value)], false);
        let causes = causes.into_iter().filter(|cause| !self.is_satisfied(cause)).collect();
        self.follow(causes, depth + 1)
    }

    fn condition(&mut self, examined: &Examined<'a>, statement: &'a Statement, depth: usize) -> Condition {
        let tree = self.tree;
        let text = |term: &Term| tree.slice(examined.module, term.extent).to_owned();
        let mut shown: Vec<String> = Vec::new();
        for term in operands(statement) {
            let text = text(term);
            if shown.len() < VALUES_MAX && !shown.contains(&text) {
                shown.push(text);
            }
        }
        let calls = calls_in(statement);
        let arguments: Vec<String> =
            calls.iter().flat_map(|(_, arguments)| arguments.iter().map(text)).collect();
        let before = self.before(examined, examined.held);
        let withs = withs(tree, examined.module, statement);
        let mut probes = ProbeSet::new(tree);
        for expression in shown.iter().chain(&arguments) {
            probes.add(examined.module, &values_rule(&before, expression, &withs));
        }
        let answers = probes.run(self.bundle, self.facts).unwrap_or_default();
        let values = shown
            .iter()
            .zip(&answers)
            .filter_map(|(text, answer)| Some((text.clone(), shown_values(answer.as_ref()?)?)));
        let values = values.collect();
        let mut answers = answers.iter().skip(shown.len());
        let negated = matches!(statement.kind, StatementKind::Not(_));
        let mut causes = self.rules_in(&statement.terms(), negated);
        causes.retain(|cause| self.is_satisfied(cause) == cause.negated);
        for (path, arguments) in calls {
            let given: Option<Vec<String>> =
                arguments.iter().map(|_| only(answers.next()?.as_ref())).collect();
            if let Some(given) = given {
                causes.push(Asked { path: path.clone(), negated, arguments: Some(given) });
            }
        }
        Condition {
            place: tree.place(examined.module, statement.extent.start),
            expression: tree.slice(examined.module, statement.extent).to_owned(),
            values,
            causes: self.follow(causes, depth + 1),
        }
    }

    /// Whether a rule has a value that is no refusal.
    fn is_satisfied(&self, asked: &Asked) -> bool {
        self.value_of(&asked.path).is_some_and(|value| !is_refusal(&value) && !is_empty(&value))
    }

    /// The rules whose values stand in terms.
    fn rules_in(&self, terms: &[&Term], negated: bool) -> Vec<Asked> {
        let mut found: Vec<Asked> = Vec::new();
        for term in terms {
            walk_term(term, &mut |term| {
                let Some(steps) = term.data_steps() else { return };
                let keys: Path = steps.iter().map_while(Term::constant_key).map(str::to_owned).collect();
                let rule = (1..=keys.len()).filter_map(|length| keys.get(..length)).find(|path| {
                    let at = self.tree.rules_at(path);
                    at.iter().any(|id| self.tree.rule(*id).is_some_and(|rule| !rule.is_function()))
                });
                let asked = rule.map(|path| Asked { path: path.to_vec(), negated, arguments: None });
                found.extend(asked.filter(|asked| !found.contains(asked)));
            });
        }
        found
    }
}

/// The user's functions that a statement calls, with their arguments.
fn calls_in(statement: &Statement) -> Vec<(&Path, &[Term])> {
    let mut found = Vec::new();
    for term in statement.terms() {
        walk_term(term, &mut |term| {
            if let TermKind::Call { callee, arguments } = &term.kind
                && let Target::Function(path) = &callee.target
            {
                found.push((path, arguments.as_slice()));
            }
        });
    }
    found
}

/// The part of a head's value that decides: of a decision object the field `allow`.
fn deciding(value: &Term) -> &Term {
    let TermKind::Object(fields) = &value.kind else { return value };
    let allow = fields.iter().find(|(key, _)| matches!(key.constant_key(), Some("allow" | "allowed")));
    allow.map_or(value, |(_, value)| value)
}

/// The one value that an argument has, as JSON.
fn only(answer: Option<&Value>) -> Option<String> {
    let Some(Value::Array(values)) = answer else { return None };
    let mut different = values.iter();
    let first = different.next()?;
    if different.any(|other| other != first) {
        return None;
    }
    serde_json::to_string(first).ok()
}

fn is_refusal(value: &Value) -> bool {
    match value {
        Value::Bool(held) => !held,
        Value::Object(fields) => ["allow", "allowed"]
            .iter()
            .any(|key| fields.get(&Value::from(*key)).is_some_and(|allow| *allow != Value::from(true))),
        Value::Undefined => true,
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Set(_) => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Set(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rego::program::{Module, Options};

    fn why(policy: &str, input: &str) -> Explanation {
        let bundle = Bundle {
            revision: String::new(),
            modules: vec![Module { path: "p.rego".to_owned(), text: policy.to_owned() }],
            tests: Vec::new(),
            case_files: Vec::new(),
            v0: std::sync::Arc::default(),
            data: Value::from_json_str(r#"{"methods": {"reader": ["GET"]}}"#).unwrap(),
        };
        let program = bundle.compile(Options::default()).unwrap();
        let input = Value::from_json_str(input).unwrap();
        let facts = Facts { input, now_ns: 0, budget: Duration::from_secs(5) };
        explain(&bundle, &program, &program.entrypoint("gateway/decision").unwrap(), &facts).unwrap()
    }

    const POLICY: &str = r#"package gateway

decision := {"allow": allowed, "reason": "r"}

default allowed := false

allowed if {
	input.role == "admin"
	input.mfa == true
}

allowed if {
	input.tenant == "t1"
	within(input.method)
	not suspended
}

within(method) if {
	startswith(method, "G")
	method in data.methods[input.role]
}

suspended if input.user in {"mallory"}
"#;

    #[test]
    fn the_nearest_body_comes_first_and_shows_what_it_read() {
        let why = why(POLICY, r#"{"role": "reader", "tenant": "t1", "method": "GET", "user": "mallory"}"#);
        let decision = &why.rule;
        assert_eq!(decision.name, "data.gateway.decision");
        let allowed = &decision.bodies[0].causes[0];
        assert_eq!(
            (allowed.name.as_str(), allowed.value.as_deref()),
            ("data.gateway.allowed", Some("false"))
        );
        let nearest = &allowed.bodies[0];
        assert_eq!((nearest.held, nearest.conditions, nearest.place.line), (2, 3, 12));
        let failed = nearest.failed.as_ref().unwrap();
        assert_eq!(failed.expression, "not suspended");
        let suspended = &failed.causes[0];
        assert_eq!((suspended.name.as_str(), suspended.negated), ("data.gateway.suspended", true));
        assert_eq!(suspended.bodies[0].held, 1);
        let other = allowed.bodies[1].failed.as_ref().unwrap();
        assert_eq!((other.expression.as_str(), other.place.line), ("input.role == \"admin\"", 8));
        assert_eq!(other.values, [("input.role".to_owned(), "\"reader\"".to_owned())]);
    }

    #[test]
    fn functions_are_opened_with_their_arguments() {
        let why = why(POLICY, r#"{"role": "reader", "tenant": "t1", "method": "GOT"}"#);
        let allowed = &why.rule.bodies[0].causes[0];
        let within = &allowed.bodies[0].failed.as_ref().unwrap().causes[0];
        assert_eq!(within.name, "data.gateway.within(\"GOT\")");
        let failed = within.bodies[0].failed.as_ref().unwrap();
        assert_eq!(
            (within.bodies[0].held, failed.expression.as_str()),
            (1, "method in data.methods[input.role]")
        );
        assert!(
            failed.values.contains(&("data.methods[input.role]".to_owned(), "[\"GET\"]".to_owned())),
            "{:?}",
            failed.values
        );
    }

    #[test]
    fn an_allow_tells_what_holds() {
        let why = why(POLICY, r#"{"role": "admin", "mfa": true}"#);
        assert_eq!(why.result, Some(Value::from_json_str(r#"{"allow": true, "reason": "r"}"#).unwrap()));
        assert!(why.rule.bodies.is_empty() || why.rule.bodies[0].failed.is_none());
    }
}
