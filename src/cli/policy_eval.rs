//! `gatewayctl policy eval`: asks policies one question about one input, or what somebody may do.

mod caller;
mod configured;
mod routes;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use regorus::Value;
use serde_json::{Map, json};

use crate::base::clock::{Clock, SystemClock, saturating_nanos};
use crate::base::host_port::HostPort;
use crate::base::size::ByteLimit;
use crate::cli::output::{Exit, Paint, parse_duration};
use crate::cli::policy_eval::caller::{CallerArgs, Line};
use crate::cli::policy_eval::configured::Refused;
use crate::cli::rego_args::RegoArgs;
use crate::config::model::{HttpSend, Lifecycle, Lookup};
use crate::contract::event::Outside as Told;
use crate::contract::form::Contract;
use crate::contract::request::ApiFacts;
use crate::pipeline::reject::Cause;
use crate::policy::asking::Question;
use crate::policy::bundle::{self, Bundle, Purpose};
use crate::policy::eval;
use crate::rego::evaluator::{EvalError, Evaluator, Facts, Row};
use crate::rego::outside::{Outside, Settled};
use crate::rego::program::{EngineKind, Module, Options, Program};
use crate::runtime::outside::{Asker, Outbound, Spent};
use crate::runtime::snapshot::lifecycle_document;

/// Longest input document.
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// API, route and listener of a request of which nothing else is said, as in case files.
const TEST: &str = "test";

/// Ask policies a question about an input.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Directories and files with policies and data.
    #[arg(required_unless_present = "config", conflicts_with = "config", value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The input document, JSON; `-` reads standard input. Default: no input.
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// What to ask: a rule's path, or any Rego query.
    #[arg(short, long, value_name = "QUERY", default_value = "data.gateway.decision", value_parser = query, conflicts_with = "config")]
    pub query: String,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value_t = EvalFormat::Pretty)]
    pub format: EvalFormat,
    /// Exit with 2 if the answer is undefined, false, or a decision that denies.
    #[arg(long)]
    pub fail: bool,
    /// Exit with 2 if the answer is defined, whatever it is; for queries that look for what must not be.
    #[arg(long, conflicts_with = "fail")]
    pub fail_defined: bool,
    /// Make errors of built-ins fatal instead of undefined.
    #[arg(long)]
    pub strict_builtin_errors: bool,
    /// What evaluates a rule's path: its decision plan, or the interpreter. Default: the plan, where there is one.
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<EvalEngine>,
    /// How policies are read.
    #[command(flatten)]
    pub rego: RegoArgs,
    /// A server that `http.send` may really ask; may be repeated. Default: none, and a call that is not mocked fails.
    #[arg(long, value_name = "HOST:PORT", value_parser = server)]
    pub allow_http: Vec<HostPort>,
    /// A name that `net.lookup_ip_addr` may really look up; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub allow_lookup: Vec<String>,
    /// The longest the evaluation may take.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Who asks, and for what.
    #[command(flatten)]
    pub caller: CallerArgs,
}

/// What evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EvalEngine {
    /// The decision plan; says so where a rule has none, and why.
    Plan,
    /// The interpreter.
    Interpreter,
}

/// How to print an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EvalFormat {
    /// The values alone.
    Pretty,
    /// OPA's JSON.
    Json,
}

/// Runs the command. The answer goes to `out`; errors and what the policy prints to `notes`.
pub fn run(
    args: &EvalArgs,
    paint: Paint,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let now = SystemClock.now();
    let caller = &args.caller;
    if let Some(path) = &caller.config {
        let config = configured::load(path)?;
        let Some(line) = &caller.request else {
            let table = routes::table(caller, &config, (now, args.timeout), notes)?;
            match args.format {
                EvalFormat::Pretty => table.write(paint, out)?,
                EvalFormat::Json => writeln!(out, "{:#}", table.to_json())?,
            }
            return Ok(if args.fail && !table.allows_all() { Exit::No } else { Exit::Fine });
        };
        return match configured::ask(caller, &config, line, now)? {
            configured::Outcome::Refused(refused) => refuse(args, &refused, out, notes),
            configured::Outcome::Asked(asked) => {
                let configured::Asked { bundle, query, input } = *asked;
                answer(args, (&bundle, &query, input), now, out, notes)
            }
        };
    }
    let input = match (&args.input, &caller.request) {
        (Some(path), _) => read_input(path)?,
        (None, Some(line)) => match supposed(caller, line, now)? {
            Ok(input) => input,
            Err(refused) => return refuse(args, &refused, out, notes),
        },
        (None, None) => Value::Undefined,
    };
    let bundle = match bundle::load_as(&args.paths, Purpose::Develop, args.rego.version()) {
        Ok(bundle) => bundle,
        Err(errors) => {
            writeln!(notes, "{errors}")?;
            return Ok(Exit::CouldNotRun);
        }
    };
    answer(args, (&bundle, &args.query, input), now, out, notes)
}

/// The input of a request of which there is no configuration, or why the gateway refuses it.
fn supposed(args: &CallerArgs, line: &Line, now: Duration) -> anyhow::Result<Result<Value, Refused>> {
    let met = args.meet_plainly(now)?;
    let head = match args.sent(line.clone(), "https", "localhost")?.canonical(0) {
        Ok(head) => head,
        Err(refusal) => {
            let hint = Some(refusal.to_string());
            return Ok(Err(Refused { hint, ..Cause::from(refusal).into() }));
        }
    };
    let identity = &met.identity();
    let (params, source) = (args.params(), args.source(met.certificate));
    let lifecycle = lifecycle_document(&Lifecycle::Active);
    let api = ApiFacts {
        name: args.api.as_deref().unwrap_or(TEST),
        version: None,
        route: args.route.as_deref().unwrap_or(TEST),
        params: &params,
        lifecycle: &lifecycle,
    };
    let question = Question { time: now, listener: TEST, source: &source, head: &head, api, identity };
    Ok(Ok(question.input(Contract::GatewayV1)))
}

/// Says that no policy is asked.
fn refuse(
    args: &EvalArgs,
    refused: &Refused,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let (status, reason) = (refused.status.as_u16(), &refused.reason);
    match args.format {
        EvalFormat::Pretty => writeln!(out, "refused with {status}: {reason}")?,
        EvalFormat::Json => writeln!(out, "{:#}", json!({"refused": {"status": status, "reason": reason}}))?,
    }
    if let Some(hint) = &refused.hint {
        writeln!(notes, "note: {hint}")?;
    }
    Ok(if args.fail { Exit::No } else { Exit::Fine })
}

fn answer(
    args: &EvalArgs,
    (bundle, query, input): (&Bundle, &str, Value),
    now: Duration,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let now_ns = i64::try_from(saturating_nanos(now)).unwrap_or(i64::MAX);
    let asked = Asked { args, query: query.trim(), input, now_ns, settled: RefCell::default() };
    let rows = match asked.answer(bundle, args.strict_builtin_errors, notes)? {
        Ok(rows) => rows,
        Err(error) => {
            writeln!(notes, "{error}")?;
            return Ok(Exit::CouldNotRun);
        }
    };
    if rows.is_empty() {
        asked.explain(bundle, notes)?;
    }
    out.write_all(render(&rows, args.format)?.as_bytes())?;
    out.flush()?;
    let is_no = (args.fail && eval::is_negative(&rows)) || (args.fail_defined && !rows.is_empty());
    Ok(if is_no { Exit::No } else { Exit::Fine })
}

/// A question, to be asked once as it is, and again to learn why it has no answer.
struct Asked<'a> {
    args: &'a EvalArgs,
    query: &'a str,
    input: Value,
    now_ns: i64,
    /// What was asked outside already: asking again must not send again.
    settled: RefCell<Settled>,
}

impl Asked<'_> {
    /// The answer, or why there is none. What the policy prints goes to `notes`.
    fn answer(
        &self,
        bundle: &Bundle,
        strict_builtin_errors: bool,
        notes: &mut dyn Write,
    ) -> anyhow::Result<Result<Vec<Row>, String>> {
        let engine = match self.args.engine {
            Some(EvalEngine::Interpreter) => EngineKind::Interpreter,
            Some(EvalEngine::Plan) | None => EngineKind::Auto,
        };
        let options = Options { strict_builtin_errors, engine, ..Options::developing() };
        let program = match bundle.compile(options) {
            Ok(program) => program,
            Err(errors) => return Ok(Err(errors.to_string())),
        };
        if self.args.engine == Some(EvalEngine::Plan) {
            self.note_engine(&program, notes)?;
        }
        let mut evaluator = program.evaluator();
        let facts = Facts { input: self.input.clone(), now_ns: self.now_ns, budget: self.args.timeout };
        let answer = self.ask(&mut evaluator, &facts)?;
        for line in evaluator.take_prints() {
            writeln!(notes, "{line}")?;
        }
        Ok(answer.map_err(|error| {
            let EvalError::Unanswered { question, .. } = &error else { return error.to_string() };
            let flag = match question.builtin {
                Outside::HttpSend => "--allow-http HOST:PORT",
                Outside::LookupIpAddr => "--allow-lookup NAME",
            };
            format!("{error}, or let it really ask: `{flag}`")
        }))
    }

    /// Evaluates, and asks outside whom the arguments allow to be asked.
    fn ask(&self, evaluator: &mut Evaluator, facts: &Facts) -> anyhow::Result<Result<Vec<Row>, EvalError>> {
        let mut outside: Option<(Asker, tokio::runtime::Runtime)> = None;
        let (mut spent, mut told) = (Spent::default(), Told::default());
        loop {
            let mut settled = self.settled.borrow().clone();
            let answer = eval::eval_settled(evaluator, self.query, facts.clone(), &mut settled);
            let Err(EvalError::Unanswered { question, .. }) = &answer else { return Ok(answer) };
            let may_ask = match question.builtin {
                Outside::HttpSend => !self.args.allow_http.is_empty(),
                Outside::LookupIpAddr => !self.args.allow_lookup.is_empty(),
            };
            if !may_ask {
                return Ok(answer);
            }
            let (asker, runtime) = if let Some(ready) = &outside {
                ready
            } else {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                outside.insert((self.asker()?, runtime))
            };
            let now = Duration::from_nanos(u64::try_from(facts.now_ns).unwrap_or(0));
            let reply = runtime.block_on(asker.answer(question, &mut spent, &mut told, now));
            settled.answer((**question).clone(), reply);
            *self.settled.borrow_mut() = settled;
        }
    }

    fn asker(&self) -> anyhow::Result<Asker> {
        let http_send = HttpSend {
            allow: self.args.allow_http.clone(),
            timeout: self.args.timeout,
            response_bytes: ByteLimit::parse("16MiB")?,
            requests: 32,
            concurrent: 1,
            cache_bytes: ByteLimit::parse("16MiB")?,
            ca: None,
            client: None,
        };
        let names = self.args.allow_lookup.iter().map(|name| name.to_ascii_lowercase()).collect();
        let lookup = Lookup { allow: names, timeout: self.args.timeout };
        let outbound = Outbound::build(Some(&http_send), Some(&lookup))?.context("nobody may be asked")?;
        Ok(Asker::new(Arc::new(outbound)))
    }

    /// Says where a plan was asked for and the interpreter answers.
    fn note_engine(&self, program: &Program, notes: &mut dyn Write) -> anyhow::Result<()> {
        let query = self.query;
        let Ok(entrypoint) = program.entrypoint(query) else {
            writeln!(notes, "note: `{query}` is no rule's path: the interpreter answers")?;
            return Ok(());
        };
        if !program.is_planned(&entrypoint) {
            for refused in program.not_planned() {
                writeln!(
                    notes,
                    "note: {}: `{}` has no plan: {}",
                    refused.place, refused.rule, refused.reason
                )?;
            }
        }
        Ok(())
    }

    /// Says why the answer is undefined: a built-in that failed, where asking strictly shows one.
    fn explain(&self, bundle: &Bundle, notes: &mut dyn Write) -> anyhow::Result<()> {
        let query = self.query;
        // What it prints was told before.
        match self.answer(bundle, true, &mut std::io::sink())? {
            Err(error) => {
                writeln!(notes, "note: `{query}` is undefined, and a built-in failed: {error}")?;
            }
            // A query goes to the interpreter as it stands; what a policy could not call, it cannot either.
            Ok(_) => match unservable(bundle, query) {
                Some(message) => writeln!(notes, "note: `{query}` is undefined: {message}")?,
                None => {
                    writeln!(notes, "note: `{query}` is undefined: nothing gives it a value for this input")?;
                }
            },
        }
        Ok(())
    }
}

/// Why a query could not stand in a policy, such as a built-in that is not there.
fn unservable(bundle: &Bundle, query: &str) -> Option<String> {
    let text = format!("package postern_query\n\nanswer if {{\n{query}\n}}\n");
    let mut with_query = bundle.clone();
    with_query.modules.push(Module { path: "<query>".to_owned(), text });
    let errors = with_query.compile(Options::developing()).err()?;
    let fault = errors.faults().first()?;
    Some(
        fault
            .hint
            .as_ref()
            .map_or_else(|| fault.message.clone(), |hint| format!("{}; {hint}", fault.message)),
    )
}

fn server(text: &str) -> Result<HostPort, String> {
    HostPort::parse(text).ok_or_else(|| "write `host:port`, without a scheme and without a path".to_owned())
}

fn query(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("a query is needed, such as `data.gateway.decision`".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn read_input(path: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    let shown = path.display();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text))
    };
    read.with_context(|| format!("input `{shown}` cannot be read"))?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        bail!("input `{shown}` is longer than {} MiB", INPUT_BYTES_MAX >> 20);
    }
    Value::from_json_str(&text).map_err(|error| anyhow::anyhow!("input `{shown}` is not valid JSON: {error}"))
}

fn render(rows: &[Row], format: EvalFormat) -> anyhow::Result<String> {
    let json_of = |value: &Value| -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&value.to_json_str()?)?)
    };
    let mut results = Vec::new();
    let mut text = String::new();
    for row in rows {
        let mut expressions = Vec::new();
        for answer in &row.expressions {
            let value = json_of(&answer.value)?;
            text.push_str(&serde_json::to_string_pretty(&value)?);
            text.push('\n');
            let location = json!({"row": answer.row, "col": answer.column});
            expressions.push(json!({"value": value, "text": answer.text, "location": location}));
        }
        let mut result = Map::new();
        result.insert("expressions".to_owned(), expressions.into());
        if let serde_json::Value::Object(bindings) = json_of(&row.bindings)?
            && !bindings.is_empty()
        {
            result.insert("bindings".to_owned(), bindings.into());
        }
        results.push(serde_json::Value::Object(result));
    }
    Ok(match format {
        EvalFormat::Pretty if rows.is_empty() => "undefined\n".to_owned(),
        EvalFormat::Pretty => text,
        EvalFormat::Json if rows.is_empty() => "{}\n".to_owned(),
        EvalFormat::Json => format!("{:#}\n", json!({"result": results})),
    })
}
