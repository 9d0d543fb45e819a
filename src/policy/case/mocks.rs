//! `mocks`: what the world outside answers in a case. Nobody is ever asked.
//!
//! What no mock answers stays without an answer, and fails the decision as it does without any mocks.

use std::collections::BTreeSet;

use regorus::Value;

use crate::config::yaml::{Data, Node};
use crate::policy::case::reader::{Fields, Reader};
use crate::policy::decide::{Ruling, Unanswered};
use crate::rego::outside::{Outside, Question, Reply, Settled};

/// Different questions that are answered in one decision; the most that a gateway can be told to allow.
const QUESTIONS_MAX: usize = 64;

/// The mocks of a case.
#[derive(Debug, Default)]
pub(super) struct Mocks(Vec<Mock>);

#[derive(Debug)]
struct Mock {
    builtin: Outside,
    /// What the argument must hold; `None` is met by all.
    when: Option<Value>,
    reply: Reply,
}

impl Mocks {
    /// Reads `mocks`.
    pub(super) fn read(reader: &mut Reader, fields: &Fields<'_>) -> Self {
        let builtins = [Outside::HttpSend, Outside::LookupIpAddr];
        let mut mocks = Vec::new();
        if let Some(fields) = reader.below(fields, "mocks", &builtins.map(Outside::name)) {
            for builtin in builtins {
                let Some(node) = fields.get(builtin.name()) else { continue };
                let path = fields.path_of(builtin.name());
                match &node.data {
                    Data::Sequence(rules) => {
                        mocks
                            .extend(rules.iter().filter_map(|rule| Mock::read(reader, rule, &path, builtin)));
                    }
                    Data::Mapping(_) | Data::Scalar(_) => {
                        let reply = answer(reader, node, &path, builtin);
                        mocks.extend(reply.map(|reply| Mock { builtin, when: None, reply }));
                    }
                }
            }
        }
        Self(mocks)
    }

    /// Asks until no question is left, or one that no mock answers.
    pub(super) fn ask(
        &self,
        mut evaluate: impl FnMut(&mut Settled) -> Result<Ruling, Box<Unanswered>>,
    ) -> Ruling {
        let mut settled = Settled::default();
        for _ in 0..QUESTIONS_MAX {
            match evaluate(&mut settled) {
                Ok(ruling) => return ruling,
                Err(unanswered) => match self.reply(&unanswered.question) {
                    Some(reply) => settled.answer(unanswered.question, reply.clone()),
                    None => return unanswered.into_ruling(),
                },
            }
        }
        evaluate(&mut settled).unwrap_or_else(|unanswered| unanswered.into_ruling())
    }

    /// What the first mock that fits answers.
    fn reply(&self, question: &Question) -> Option<&Reply> {
        let fits = |mock: &&Mock| {
            let is_met = mock.when.as_ref().is_none_or(|when| holds(&question.argument, when));
            mock.builtin == question.builtin && is_met
        };
        self.0.iter().find(fits).map(|mock| &mock.reply)
    }
}

impl Mock {
    fn read(reader: &mut Reader, node: &Node, path: &str, builtin: Outside) -> Option<Self> {
        let fields = reader.fields(node, path, &["when", "answer", "error"]);
        let when = fields.get("when").and_then(|node| when(reader, node, &fields.path_of("when"), builtin));
        let reply = match (fields.get("answer"), reader.text(&fields, "error")) {
            (Some(node), None) => answer(reader, node, &fields.path_of("answer"), builtin)?,
            (None, Some(error)) => Reply::Error(error),
            (Some(_), Some(_)) | (None, None) => {
                let message = format!("`{path}` needs either `answer` or `error`");
                let hint =
                    "`answer` is the call's value; with `error` it fails, as where nobody can be reached";
                reader.fault(node.position, message, hint);
                return None;
            }
        };
        Some(Self { builtin, when, reply })
    }
}

fn when(reader: &mut Reader, node: &Node, path: &str, builtin: Outside) -> Option<Value> {
    let is_request = matches!(node.data, Data::Mapping(_));
    match builtin {
        Outside::HttpSend if !is_request => {
            let hint = "write what the request must hold: `{url: \"http://..\"}`";
            reader.fault(node.position, format!("`{path}` must be a mapping"), hint);
            None
        }
        Outside::LookupIpAddr => reader.text_of(node, path).map(Value::from),
        Outside::HttpSend => Some(Value::from(node.to_value())),
    }
}

/// The value of a call.
fn answer(reader: &mut Reader, node: &Node, path: &str, builtin: Outside) -> Option<Reply> {
    match (builtin, &node.data) {
        (Outside::HttpSend, Data::Mapping(_)) => Some(Reply::Value(Value::from(node.to_value()))),
        (Outside::HttpSend, Data::Sequence(_) | Data::Scalar(_)) => {
            let hint = "write the response: `{status_code: 200, body: {..}}`";
            reader.fault(node.position, format!("`{path}` must be a mapping"), hint);
            None
        }
        (Outside::LookupIpAddr, Data::Sequence(addresses)) => {
            let addresses: Option<BTreeSet<Value>> =
                addresses.iter().map(|address| reader.text_of(address, path).map(Value::from)).collect();
            Some(Reply::Value(Value::from(addresses?)))
        }
        (Outside::LookupIpAddr, Data::Mapping(_) | Data::Scalar(_)) => {
            let hint = "write rules, `- answer: [192.0.2.1]`";
            reader.fault(node.position, format!("`{path}` must be a list of addresses"), hint);
            None
        }
    }
}

/// Whether `value` is `wanted`; of an object, whether it has at least what that has.
fn holds(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(held), Value::Object(wanted)) => {
            wanted.iter_sorted().all(|(key, wanted)| held.get(key).is_some_and(|held| holds(held, wanted)))
        }
        (held, wanted) => held == wanted,
    }
}
