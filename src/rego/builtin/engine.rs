//! regorus's own built-ins, called without its interpreter.

use std::sync::OnceLock;

use regorus::{
    Source, Value,
    unstable::{BUILTINS, Expr, Ref, Span},
};

use super::Failure;

pub(super) type EngineFunction = fn(&Span, &[Ref<Expr>], &[Value], bool) -> anyhow::Result<Value>;

/// Most arguments one of regorus's built-ins takes.
const ARGUMENTS_MAX: usize = 8;

/// Calls one of regorus's built-ins.
pub(super) fn call(function: EngineFunction, arguments: &[Value], strict: bool) -> Result<Value, Failure> {
    let failed = || Failure::Error("built-in cannot be called".to_owned());
    let Site { span, params } = site().ok_or_else(failed)?;
    let params = params.get(..arguments.len()).ok_or_else(failed)?;
    function(span, params, arguments, strict).map_err(|error| Failure::Error(said(&error)))
}

/// Calls regorus's built-in of this name, its errors told.
pub(super) fn named(name: &str, arguments: &[Value]) -> Result<Value, Failure> {
    let (function, _) = BUILTINS.get(name).ok_or_else(|| Failure::Error(format!("`{name}` is not there")))?;
    call(*function, arguments, true)
}

/// The message without the place it names, which is nobody's.
fn said(error: &anyhow::Error) -> String {
    let message = error.to_string();
    let line = message.lines().find_map(|line| line.trim().strip_prefix("error: "));
    line.map_or_else(|| message.trim().to_owned(), str::to_owned)
}

/// Where built-ins believe they stand; their own place is the caller's.
struct Site {
    span: Span,
    params: Vec<Ref<Expr>>,
}

fn site() -> Option<&'static Site> {
    static SITE: OnceLock<Option<Site>> = OnceLock::new();
    SITE.get_or_init(|| {
        let source = Source::from_contents("builtin".to_owned(), " ".to_owned()).ok()?;
        let span = Span { source, line: 1, col: 1, start: 0, end: 1 };
        let params = (0..ARGUMENTS_MAX)
            .map(|_| Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 }))
            .collect();
        Some(Site { span, params })
    })
    .as_ref()
}
