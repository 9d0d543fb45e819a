//! Compiling modules and data into an immutable program.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use regorus::{Engine, Value};

use super::{
    builtin, check,
    coverage::FileCoverage,
    differential::{self, Difference},
    evaluator::Evaluator,
    fault::{BundleErrors, Fault, Place},
    footprint::{self, Footprint},
    graph::CallGraph,
    lift,
    lower::{self, Lowered},
    normalise,
    outside::Permitted,
    parse,
    plan::{Plan, reason::NotPlanned},
    source::{Edit, Text, apply, original_offset},
    tree::{ModuleId, Path, StatementKind, Tree, dotted, walk_rule, walk_statements},
    v0::RegoVersion,
    wrapper::Wrappers,
};

/// Values with more nodes than this are shared between evaluators instead of copied.
const COPY_NODES_MAX: usize = 20_000;

/// One policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The path messages name it by, and its identity: unique in a program.
    pub path: String,
    /// The text, Rego v1 unless the options say otherwise.
    pub text: String,
}

/// How a program evaluates.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether an error of a built-in fails the evaluation; OPA's default, and ours, is undefined.
    pub strict_builtin_errors: bool,
    /// Whether evaluators record the lines they reach.
    pub coverage: bool,
    /// What `opa.runtime()` answers.
    pub runtime: Value,
    /// What evaluates.
    pub engine: EngineKind,
    /// The built-ins whose answer lies outside that may be called; by default none.
    pub outside: Permitted,
    /// The paths of the modules that are written in Rego v0; all others are v1.
    pub v0: Arc<BTreeSet<String>>,
}

/// What evaluates a policy; the answers are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// Decision plans where they cover all that an entry point reads, the interpreter elsewhere.
    #[default]
    Auto,
    /// The interpreter always, for diagnosis.
    Interpreter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strict_builtin_errors: false,
            coverage: false,
            runtime: Value::new_object(),
            engine: EngineKind::Auto,
            outside: Permitted::default(),
            v0: Arc::default(),
        }
    }
}

impl Options {
    /// For who writes and tries policies: every built-in may be called, and what lies outside has to be mocked.
    pub fn developing() -> Self {
        Self { outside: Permitted::ALL, ..Self::default() }
    }

    fn version_of(&self, path: &str) -> RegoVersion {
        if self.v0.contains(path) { RegoVersion::V0 } else { RegoVersion::V1 }
    }
}

/// A compiled policy: immutable, cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Program(Arc<Inner>);

struct Inner {
    tree: Tree,
    rewritten: Vec<Rewritten>,
    wrappers: Wrappers,
    data: Value,
    options: Options,
    warnings: Vec<Fault>,
    template: Engine,
    /// Made when somebody asks what is planned; evaluators have their own.
    plan: OnceLock<Plan>,
}

/// A module as the interpreter gets it.
#[derive(Debug)]
struct Rewritten {
    /// The file it comes from.
    module: ModuleId,
    edits: Vec<Edit>,
    text: Text,
}

/// The data path an evaluation asks for, known to have rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint {
    path: Path,
    written: Arc<str>,
    is_rule: bool,
}

/// Why a path is no entry point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntrypointError {
    /// Not a path such as `gateway/decision` or `data.gateway.decision`.
    #[error("`{written}` is not a rule's path; write it as `package/rule`")]
    Malformed {
        /// What was given.
        written: String,
    },
    /// No rule lies at or below the path.
    #[error("no rule `{path}`{}", .near.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    Unknown {
        /// The path in full.
        path: String,
        /// A rule with a similar path.
        near: Option<String>,
    },
    /// The path names a function.
    #[error("`{path}` is a function, which has no value without arguments")]
    Function {
        /// The path in full.
        path: String,
    },
}

/// Compiles modules and base data, or reports every fault in them.
pub fn compile(modules: &[Module], data: Value, options: Options) -> Result<Program, BundleErrors> {
    let mut faults = Vec::new();
    let mut paths = BTreeSet::new();
    let mut parsed = Vec::new();
    for module in modules {
        if !paths.insert(&module.path) {
            faults.push(Fault::new(
                Place::whole(module.path.as_str()),
                "duplicate_file",
                "file is given twice",
            ));
            continue;
        }
        match parse::parse(&module.path, &module.text, options.version_of(&module.path)) {
            Ok(module) => parsed.push(module),
            Err(fault) => faults.push(fault),
        }
    }
    // With a module missing, every name it defines would be reported as unknown.
    let parsed = BundleErrors::unless_empty(parsed, faults)?;
    let Lowered { tree, mut faults, mut warnings } = lower::lower(parsed, options.outside);
    faults.extend(check::rules(&tree));
    faults.extend(check::data(&tree, &data));
    faults.extend(CallGraph::new(&tree).check(&tree));
    let tree = BundleErrors::unless_empty(tree, faults)?;
    let wrappers = Wrappers::gather(&tree);
    let rewritten: Vec<Rewritten> =
        (0..tree.modules.len()).flat_map(|id| rewrite(&tree, id, &wrappers)).collect();
    let template = build(&tree, &rewritten, &wrappers, data.clone(), &options)?;
    warnings.extend(check::crowded_packages(&tree, &data));
    warnings.extend(check::missed_constants(&tree));
    warnings.sort();
    Ok(Program(Arc::new(Inner {
        tree,
        rewritten,
        wrappers,
        data,
        options,
        warnings,
        template,
        plan: OnceLock::new(),
    })))
}

/// What stands between a file's path and the package of rules moved out of it.
const MOVED: &str = " // ";

/// The file behind the path of a module the interpreter has.
pub(crate) fn file_of(path: &str) -> &str {
    path.split_once(MOVED).map_or(path, |(file, _)| file)
}

fn rewrite(tree: &Tree, module: ModuleId, wrappers: &Wrappers) -> Vec<Rewritten> {
    let Some(source) = tree.modules.get(module) else { return Vec::new() };
    let edits = normalise::normalise(tree, module, wrappers);
    let rewritten = lift::split(tree, module, edits).into_iter().map(|(moved_to, edits)| {
        let path = match moved_to {
            None => source.text.path.to_string(),
            Some(package) => [&*source.text.path, MOVED, &dotted(&package)].concat(),
        };
        Rewritten { module, text: Text::new(&path, &apply(&source.text.content, &edits)), edits }
    });
    rewritten.collect()
}

/// The package of a module, without its `data`; nothing if the module does not parse.
pub(crate) fn package_of(module: &Module, version: RegoVersion) -> Option<Path> {
    let parsed = parse::parse(&module.path, &module.text, version).ok()?;
    Some(lower::package_of(&parsed))
}

/// An engine with its own syntax trees, ready to evaluate.
fn build(
    tree: &Tree,
    modules: &[Rewritten],
    wrappers: &Wrappers,
    data: Value,
    options: &Options,
) -> Result<Engine, BundleErrors> {
    let mut engine = Engine::new();
    engine.set_policy_length_config(parse::length_limits());
    engine.set_strict_builtin_errors(options.strict_builtin_errors);
    engine.set_gather_prints(true);
    engine.set_enable_coverage(options.coverage);
    let fail = |error: &anyhow::Error| {
        BundleErrors::from(locate(tree, modules, "compile_error", &error.to_string()))
    };
    builtin::install(&mut engine, options.strict_builtin_errors).map_err(|error| fail(&error))?;
    for module in modules {
        let (path, text) = (module.text.path.to_string(), module.text.content.to_string());
        // The original parsed, so this is a fault of the rewriting and no one else's.
        engine.add_policy(path, text).map_err(|error| {
            BundleErrors::from(locate(tree, modules, "rewrite_error", &error.to_string()))
        })?;
    }
    if let Some(text) = wrappers.module() {
        engine.add_policy("built-ins".to_owned(), text).map_err(|error| fail(&error))?;
    }
    engine.add_data(data).map_err(|error| fail(&error))?;
    // Preparing is lazy; asking for any rule does it now, and reports what it finds.
    if let Some(rule) = tree.rules.iter().find(|rule| !rule.is_function()) {
        let path = dotted(&rule.path);
        let prepared = engine.compile_with_entrypoint(&path.as_str().into());
        let harmless = |error: &anyhow::Error| error.to_string() == "not a valid rule path";
        prepared.map(|_| ()).or_else(|error| if harmless(&error) { Ok(()) } else { Err(fail(&error)) })?;
    }
    Ok(engine)
}

/// A fault from a message of the interpreter, which speaks of the rewritten text.
fn locate(tree: &Tree, modules: &[Rewritten], code: &'static str, message: &str) -> Fault {
    let named = modules.iter().find(|module| message.contains(&format!("--> {}:", module.text.path)));
    let original = named.and_then(|module| tree.modules.get(module.module));
    let Some((module, original)) = named.zip(original.map(|original| &original.text)) else {
        return Fault::new(Place::whole("policy"), code, message.trim());
    };
    let mut fault = parse::fault_of(&module.text, code, message);
    if let Some(offset) = module.text.offset(&fault.place) {
        fault.place = original.place(original_offset(&module.edits, offset));
    }
    fault
}

// === impl Program ===

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("modules", &self.0.tree.modules.len()).finish_non_exhaustive()
    }
}

impl Program {
    /// A new evaluator; one for each worker, since evaluators share nothing that is counted.
    pub fn evaluator(&self) -> Evaluator {
        let Inner { tree, rewritten, wrappers, data, options, template, .. } = &*self.0;
        // The text compiled before, so it does again; sharing the first engine is merely slower.
        let data = private_copy(data);
        let plan = self.plans().then(|| Plan::new(tree, &data));
        let engine = build(tree, rewritten, wrappers, data, options).unwrap_or_else(|_| template.clone());
        Evaluator::new(self.clone(), engine, plan, deep_copy(&options.runtime))
    }

    // Lines are counted by the interpreter alone.
    fn plans(&self) -> bool {
        self.0.options.engine == EngineKind::Auto && !self.0.options.coverage
    }

    fn plan(&self) -> &Plan {
        let Inner { tree, data, plan, .. } = &*self.0;
        plan.get_or_init(|| Plan::new(tree, data))
    }

    /// Whether an entry point is evaluated by a plan.
    pub fn is_planned(&self, entrypoint: &Entrypoint) -> bool {
        self.plans() && self.plan().entry(&entrypoint.path).is_ok()
    }

    /// Compares plan and interpreter on made-up inputs; the first difference, if there is one. Takes
    /// some milliseconds.
    pub fn verify(&self, entrypoint: &Entrypoint) -> Option<Difference> {
        if self.is_planned(entrypoint) { differential::compare(self, entrypoint) } else { None }
    }

    /// The constants of the policy's text.
    pub(crate) fn constants(&self) -> impl Iterator<Item = &Value> {
        self.plan().constants()
    }

    /// Names of the rules and functions that plans cover.
    pub fn planned(&self) -> Vec<String> {
        self.plan().planned().map(str::to_owned).collect()
    }

    /// The rules that no plan covers, in the order of their paths, and why.
    pub fn not_planned(&self) -> Vec<NotPlanned> {
        self.plan().refused().cloned().collect()
    }

    /// How it evaluates.
    pub(crate) fn options(&self) -> &Options {
        &self.0.options
    }

    /// The entry point written as `gateway/decision` or `data.gateway.decision`.
    pub fn entrypoint(&self, written: &str) -> Result<Entrypoint, EntrypointError> {
        self.entrypoint_at(entry_path(written)?)
    }

    /// The entry point at a path below `data`.
    pub(crate) fn entrypoint_at(&self, path: Path) -> Result<Entrypoint, EntrypointError> {
        let tree = &self.0.tree;
        let at = tree.rules_at(&path);
        if at.iter().any(|id| tree.rule(*id).is_some_and(super::tree::Rule::is_function)) {
            return Err(EntrypointError::Function { path: dotted(&path) });
        }
        let keys: Vec<Option<String>> = path.iter().cloned().map(Some).collect();
        // The engine has no single path for the rules of a head such as `p[k].q[l]`.
        let is_rule = !at.is_empty() && !at.iter().any(|id| tree.rule(*id).is_some_and(|rule| rule.is_deep));
        let below = tree.rules_touched(&keys).into_iter().filter_map(|id| tree.rule(id));
        if at.is_empty() && !below.into_iter().any(|rule| rule.path.starts_with(&path) && !rule.is_function())
        {
            let path = dotted(&path);
            let names: BTreeSet<String> = tree.rules.iter().map(super::tree::Rule::name).collect();
            let near = super::builtin::closest(&path, names.iter().map(String::as_str));
            return Err(EntrypointError::Unknown { path, near });
        }
        Ok(Entrypoint { written: dotted(&path).into(), path, is_rule })
    }

    /// Every rule with a value, as an entry point, in the order of files and lines.
    pub fn entrypoints(&self) -> Vec<Entrypoint> {
        let mut seen = BTreeSet::new();
        let rules = self.0.tree.rules.iter().filter(|rule| !rule.is_function());
        let fresh = rules.filter(|rule| seen.insert(&rule.path));
        fresh.filter_map(|rule| self.entrypoint_at(rule.path.clone()).ok()).collect()
    }

    /// What evaluating an entry point can read.
    pub fn footprint(&self, entrypoint: &Entrypoint) -> Footprint {
        footprint::analyse(&self.0.tree, &entrypoint.path)
    }

    /// What is allowed but probably not meant.
    pub fn warnings(&self) -> &[Fault] {
        &self.0.warnings
    }

    /// The resolved syntax tree.
    pub(crate) fn tree(&self) -> &Tree {
        &self.0.tree
    }

    /// The base data.
    pub fn data(&self) -> &Value {
        &self.0.data
    }

    /// A fault for an evaluation error, with its place in the original text.
    pub(crate) fn locate(&self, code: &'static str, message: &str) -> Fault {
        locate(&self.0.tree, &self.0.rewritten, code, message)
    }

    /// Coverage of files no evaluation entered: every line on which a statement begins, uncovered. What a rule's head
    /// says is reached with its last statement; of a rule without any, what has to be computed counts.
    pub(crate) fn unreached(&self) -> Vec<FileCoverage> {
        let tree = &self.0.tree;
        let mut files: Vec<FileCoverage> = tree
            .modules
            .iter()
            .map(|module| FileCoverage {
                file: module.text.path.clone(),
                covered: BTreeSet::new(),
                not_covered: BTreeSet::new(),
            })
            .collect();
        for rule in &tree.rules {
            let (Some(module), Some(file)) = (tree.modules.get(rule.module), files.get_mut(rule.module))
            else {
                continue;
            };
            let mut has_statements = false;
            walk_statements(rule, &mut |statement| {
                has_statements = true;
                if !matches!(statement.kind, StatementKind::Declare(_)) {
                    file.not_covered.insert(module.text.line_of(statement.extent.start).0);
                }
            });
            if !has_statements {
                walk_rule(rule, &mut |term| {
                    if term.is_computed() {
                        file.not_covered.insert(module.text.line_of(term.extent.start).0);
                    }
                });
            }
        }
        files
    }
}

// === impl Entrypoint ===

impl Entrypoint {
    /// The path in full: `data.gateway.decision`.
    pub fn name(&self) -> &str {
        &self.written
    }

    /// The path below `data`.
    pub(crate) fn path(&self) -> &[String] {
        &self.path
    }

    /// The name, shared: equal pointers mean the same entry point.
    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.written
    }

    /// Whether rules stand exactly at the path, rather than below it.
    pub(crate) fn is_rule(&self) -> bool {
        self.is_rule
    }
}

impl std::fmt::Display for Entrypoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.written)
    }
}

fn entry_path(written: &str) -> Result<Path, EntrypointError> {
    let malformed = || EntrypointError::Malformed { written: written.to_owned() };
    let path: Path = if let Some(below) = written.strip_prefix("data.") {
        if below.contains('/') {
            return Err(malformed());
        }
        below.split('.').map(str::to_owned).collect()
    } else {
        written.trim_start_matches('/').split('/').map(str::to_owned).collect()
    };
    let plain = path.iter().all(|component| !component.is_empty());
    if plain { Ok(path) } else { Err(malformed()) }
}

/// A copy that shares no counter with the original; reference counts shared between workers cost
/// more than a small copy.
fn private_copy(value: &Value) -> Value {
    if nodes(value, COPY_NODES_MAX) > COPY_NODES_MAX {
        return value.clone();
    }
    deep_copy(value)
}

fn nodes(value: &Value, limit: usize) -> usize {
    let count = |sum: usize, value: &Value| if sum > limit { sum } else { sum + nodes(value, limit) };
    match value {
        Value::Array(items) => items.iter().fold(1, count),
        Value::Set(items) => items.iter().fold(1, count),
        Value::Object(fields) => fields.iter().fold(1, |sum, (_, value)| count(sum + 1, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => 1,
    }
}

fn deep_copy(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(&**text),
        Value::Array(items) => Value::from(items.iter().map(deep_copy).collect::<Vec<_>>()),
        Value::Set(items) => Value::from(items.iter().map(deep_copy).collect::<BTreeSet<_>>()),
        Value::Object(fields) => {
            let mut copy = Value::new_object();
            if let Ok(object) = copy.as_object_mut() {
                for (key, value) in fields.iter() {
                    object.insert(deep_copy(key), deep_copy(value));
                }
            }
            copy
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => value.clone(),
    }
}
