//! Asking a program a question, as `opa eval` does.

use regorus::Value;

use crate::rego::{
    evaluator::{Answer, EvalError, Evaluator, Facts, Row},
    outside::Settled,
    program::EntrypointError,
};

/// Answers a query: a rule's path as `data.gateway.decision`, or any Rego. No row means undefined.
///
/// A path is evaluated as the gateway evaluates it. Other queries go to the interpreter as they
/// stand, without the rewriting that modules get.
pub fn eval(evaluator: &mut Evaluator, query: &str, facts: Facts) -> Result<Vec<Row>, EvalError> {
    eval_settled(evaluator, query, facts, &mut Settled::default())
}

/// As [`eval`], with what is `settled` of the world outside; a question that is not comes back as the error.
pub fn eval_settled(
    evaluator: &mut Evaluator,
    query: &str,
    facts: Facts,
    settled: &mut Settled,
) -> Result<Vec<Row>, EvalError> {
    let query = query.trim();
    match evaluator.program().entrypoint(query) {
        Ok(entrypoint) if query.starts_with("data.") => {
            let value = evaluator.evaluate_settled(&entrypoint, facts, settled)?;
            let expression = |value| Answer { value, text: query.to_owned(), row: 1, column: 1 };
            let row = |value| Row { expressions: vec![expression(value)], bindings: Value::new_object() };
            Ok(value.map(row).into_iter().collect())
        }
        Ok(_)
        | Err(
            EntrypointError::Malformed { .. }
            | EntrypointError::Unknown { .. }
            | EntrypointError::Function { .. },
        ) => evaluator.query_settled(query, facts, settled),
    }
}

/// Whether a `--fail` run counts the answer as "no": undefined, false, or an object that denies.
pub fn is_negative(rows: &[Row]) -> bool {
    let negative = |answer: &Answer| match &answer.value {
        Value::Bool(held) => !held,
        Value::Object(fields) => {
            let allow = fields.get(&Value::from("allow")).or_else(|| fields.get(&Value::from("allowed")));
            allow.is_some_and(|allow| *allow != Value::from(true))
        }
        Value::Undefined => true,
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Set(_) => false,
    };
    rows.is_empty() || rows.iter().all(|row| row.expressions.iter().any(negative))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rego::program::{Module, Options, compile};

    fn ask(query: &str) -> Result<Vec<Row>, EvalError> {
        let text =
            "package a\np if input.x == 1\nd := {\"allow\": input.x == 1}\nxs := [1, 2]\nf(x) := x + 1\n";
        let modules = vec![Module { path: "p.rego".into(), text: text.into() }];
        let program = compile(&modules, Value::new_object(), Options::default()).unwrap();
        let input = Value::from_json_str(r#"{"x": 1}"#).unwrap();
        eval(&mut program.evaluator(), query, Facts { input, now_ns: 0, budget: Duration::from_secs(5) })
    }

    #[track_caller]
    fn check(query: &str, values: &[&str], negative: bool) {
        let rows = ask(query).unwrap();
        let got: Vec<String> =
            rows.iter().flat_map(|row| &row.expressions).map(|answer| answer.value.to_string()).collect();
        assert_eq!(got, values, "{query}");
        assert_eq!(is_negative(&rows), negative, "{query}");
    }

    #[test]
    fn queries_answer_as_opa_eval_does() {
        check("data.a.p", &["true"], false);
        check("data.a.d", &[r#"{"allow":true}"#], false);
        check("data.a.nothing", &[], true);
        check("input.x == 2", &["false"], true);
        check("data.a.xs[_]", &["1", "2"], false);
        check("data.a.f(2)", &["3"], false);
        check("x := data.a.xs[_]; x > 1", &["true", "true"], false);
    }

    #[test]
    fn a_query_that_is_not_rego_is_an_error() {
        assert!(ask("p {{").is_err());
        assert!(ask("nothing_at_all").is_err());
    }
}
