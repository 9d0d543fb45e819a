//! regorus's syntax trees to the resolved [`Tree`]: scopes, imports, rule and function names.
//!
//! Every name that cannot be resolved, every arity that is wrong, and every variable that nothing
//! can bind is a fault with its place; the tree is complete even so.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "regorus's tree has many forms of which each step needs few"
)]

mod names;
mod term;

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{self, Literal, LiteralStmt, Query, Ref, RuleHead};

use self::names::{Head, Names, head_of, import_of};
use super::{
    annotation::Annotations,
    desugar::is_keyword,
    fault::Fault,
    outside::Permitted,
    parse::{Kind, Parsed, Token},
    tree::{
        Body, Branch, Callee, DocumentPath, Extent, Lift, ModuleId, ModuleTree, Path, Rule, Shape, Statement,
        StatementKind, Target, Term, TermKind, Tree, With, WithTarget,
    },
};

/// Resolves all modules of a program together. Only `permitted` built-ins may ask outside.
pub(crate) fn lower(modules: Vec<Parsed>, permitted: Permitted) -> Lowered {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let names = Names::gather(&modules, &mut faults);
    let annotations = Annotations::gather(&modules, &mut faults);
    let mut rules = Vec::new();
    let mut trees = Vec::new();
    for (id, parsed) in modules.into_iter().enumerate() {
        let package = package_of(&parsed);
        let mut lowering = Lowering {
            names: &names,
            annotations: &annotations,
            permitted,
            parsed: &parsed,
            module: id,
            rule_at: 0,
            rule_path: Path::new(),
            imports: BTreeMap::new(),
            package,
            scopes: Vec::new(),
            free: Vec::new(),
            position: Position::Plain,
            is_lifted: false,
            aliases: Vec::new(),
            faults: &mut faults,
            warnings: &mut warnings,
        };
        lowering.read_imports();
        for (index, rule) in parsed.syntax.policy.iter().enumerate() {
            lowering.rule_at = index;
            lowering.rule_path = rule_path_of(&lowering.package, rule);
            let rule = lowering.rule(rule);
            let is_entrypoint = annotations.is_entrypoint(id, index, &rule.path);
            rules.push(Rule { is_entrypoint, ..rule });
        }
        let import_names =
            lowering.imports.iter().map(|(name, import)| (name.clone(), import.extent)).collect();
        lowering.check_imports();
        let package_extent = lowering.span(&parsed.syntax.package.span);
        let imports = parsed.syntax.imports.iter().map(|import| lowering.span(&import.span)).collect();
        let bare_imports = lowering.bare_imports();
        let aliases = std::mem::take(&mut lowering.aliases);
        let package = lowering.package;
        trees.push(ModuleTree {
            text: parsed.text,
            package,
            package_extent,
            imports,
            import_names,
            aliases,
            bare_imports,
        });
    }
    Lowered { tree: Tree::new(trees, rules), faults, warnings }
}

/// The package a parsed file declares.
pub(crate) fn package_of(parsed: &Parsed) -> Path {
    names::package_of(&parsed.syntax)
}

/// The constant path of a rule in a package.
pub(crate) fn rule_path_of(package: &Path, rule: &unstable::Rule) -> Path {
    let refr = match rule {
        unstable::Rule::Default { refr, .. }
        | unstable::Rule::Spec {
            head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        } => refr,
    };
    package.iter().cloned().chain(head_of(refr).constant).collect()
}

/// The tree, what must be corrected, and what only looks wrong.
pub(crate) struct Lowered {
    pub(crate) tree: Tree,
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<Fault>,
}

/// What an import alias stands for.
#[derive(Debug, Clone)]
struct Import {
    of_input: bool,
    path: Path,
    extent: Extent,
    is_used: bool,
}

/// A name a body declares, and whether anything uses it.
#[derive(Debug)]
struct Declared {
    extent: Extent,
    kind: DeclaredBy,
    is_used: bool,
    /// What it is called for the interpreter, which takes no `some x in` where `x` is known already.
    renamed: Option<String>,
    /// Whether the `some` that declares it has been passed: before, OPA takes the name for what it hides.
    is_reached: bool,
}

/// What declared a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeclaredBy {
    /// `some x` or `every x`: OPA refuses such a name that nothing uses.
    Some,
    /// `:=` with a name on the left.
    Assignment,
    /// An argument or a pattern: it may be there for its shape alone.
    Pattern,
    /// The pattern of `some x in`.
    Iteration,
}

/// An undeclared local: something has to bind it.
#[derive(Debug)]
struct Free {
    name: String,
    extent: Extent,
    binds: bool,
}

/// Whether the term at hand could bind a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Plain,
    Pattern,
    Negated,
}

struct Lowering<'a> {
    names: &'a Names,
    annotations: &'a Annotations,
    permitted: Permitted,
    parsed: &'a Parsed,
    module: ModuleId,
    /// The position in its module of the rule at hand, and its path.
    rule_at: usize,
    rule_path: Path,
    imports: BTreeMap<String, Import>,
    package: Path,
    scopes: Vec<BTreeMap<String, Declared>>,
    free: Vec<Free>,
    position: Position,
    /// Whether the rule at hand will stand in another package.
    is_lifted: bool,
    aliases: Vec<(Extent, String)>,
    faults: &'a mut Vec<Fault>,
    warnings: &'a mut Vec<Fault>,
}

impl Lowering<'_> {
    fn fault(&mut self, extent: Extent, code: &'static str, message: String, hint: &str) {
        let place = self.parsed.text.place(extent.start);
        self.faults.push(Fault::new(place, code, message).hint(hint));
    }

    // A span touching a string leaves its quotes out; an end within a token is the token's end.
    fn span(&self, span: &unstable::Span) -> Extent {
        let (start, end) = (span.start as usize, span.end as usize);
        Extent {
            start: self.text_token_around(start).map_or(start, |token| token.start),
            end: self.text_token_around(end).map_or(end, |token| token.end),
        }
    }

    fn text_token_around(&self, at: usize) -> Option<Token> {
        let tokens = &self.parsed.tokens;
        let index = tokens.partition_point(|token| token.start < at).checked_sub(1)?;
        tokens.get(index).copied().filter(|token| token.kind == Kind::Text && at < token.end)
    }

    fn read_imports(&mut self) {
        for import in &self.parsed.syntax.imports {
            let Some((alias, mut import, span)) = import_of(import) else { continue };
            let extent = self.span(&span);
            import.extent = extent;
            if self.names.is_rule(&self.package, &alias) {
                self.fault(
                    extent,
                    "import_shadows_rule",
                    format!("import `{alias}` has the name of a rule of this package"),
                    "rename it with `as`",
                );
            }
            if let Some(other) = self.imports.insert(alias.clone(), import) {
                let place = self.parsed.text.place(other.extent.start);
                let message = format!("import `{alias}` has the name of the import at {place}");
                self.fault(extent, "import_shadows_import", message, "remove one, or rename it with `as`");
            }
        }
    }

    fn check_imports(&mut self) {
        for (alias, import) in std::mem::take(&mut self.imports) {
            if !import.is_used {
                let place = self.parsed.text.place(import.extent.start);
                let message = format!("import `{alias}` is not used");
                self.warnings.push(Fault::new(place, "unused_import", message).hint("remove it"));
            }
        }
    }

    fn bare_imports(&self) -> Vec<Extent> {
        let imports = self.parsed.syntax.imports.iter();
        imports
            .filter(|import| import.r#as.is_none() && matches!(&*import.refr, unstable::Expr::Var { .. }))
            .map(|import| self.span(&import.span))
            .collect()
    }

    fn rule(&mut self, rule: &unstable::Rule) -> Rule {
        self.free.clear();
        let lowered = match rule {
            unstable::Rule::Default { span, refr, args, value, .. } => {
                let head = head_of(refr);
                let lift = self.lift(&head, refr);
                let arguments = self.open_arguments(args);
                let value = self.term(value);
                let shape = if args.is_empty() { Shape::Value } else { Shape::Function(arguments) };
                self.close_scope();
                let rule = self.assemble(head, shape, Some(value), Vec::new(), span, span, true);
                Rule { lift, ..rule }
            }
            unstable::Rule::Spec { span, head, bodies } => self.spec(span, head, bodies),
        };
        self.check_free();
        lowered
    }

    fn spec(&mut self, span: &unstable::Span, head: &RuleHead, bodies: &[unstable::RuleBody]) -> Rule {
        let (head_span, refr, args, value) = match head {
            RuleHead::Compr { span, refr, assign } => {
                (span, refr, [].as_slice(), assign.as_ref().map(|a| &a.value))
            }
            RuleHead::Set { span, refr, key } => (span, refr, [].as_slice(), key.as_ref()),
            RuleHead::Func { span, refr, args, assign } => {
                (span, refr, args.as_slice(), assign.as_ref().map(|a| &a.value))
            }
        };
        let lift = self.lift(&head_of(refr), refr);
        let arguments = self.open_arguments(args);
        let shape = match head {
            RuleHead::Compr { .. } => Shape::Value,
            RuleHead::Set { .. } => Shape::Set,
            RuleHead::Func { .. } => Shape::Function(arguments),
        };
        // The head is evaluated in the scope of each body it heads: names of all of them resolve.
        let mut branches = Vec::new();
        let mut head_scope = BTreeMap::new();
        for body in bodies {
            self.open_body(&body.query);
            let lowered = self.body(&body.query);
            let value = body.assign.as_ref().map(|assign| self.term(&assign.value));
            let scope = self.scopes.pop().unwrap_or_default();
            if body.is_else {
                self.scopes.push(scope);
                self.close_scope();
            } else {
                self.share(scope, &mut head_scope);
            }
            branches.push(Branch { is_else: body.is_else, value, body: lowered });
        }
        self.scopes.push(head_scope);
        let value = value.map(|value| self.term(value));
        let mut head = head_of(refr);
        let keys = std::mem::take(&mut head.keys);
        let keys: Vec<Term> = keys.iter().map(|key| self.term(key)).collect();
        self.close_scope();
        self.close_scope();
        let mut rule = self.assemble(head, shape, value, branches, span, head_span, false);
        rule.keys = keys;
        rule.lift = lift;
        rule
    }

    /// Where a rule goes whose head begins with a keyword.
    fn lift(&mut self, head: &Head<'_>, refr: &unstable::Expr) -> Option<Lift> {
        self.is_lifted = head.constant.first().is_some_and(|name| is_keyword(name));
        if !self.is_lifted {
            return None;
        }
        let keywords = head.constant.iter().take_while(|name| is_keyword(name)).count();
        let start = self.span(refr.span()).start;
        let Some(end) = head.starts.get(keywords).copied().flatten() else {
            self.fault(
                Extent { start, end: start },
                "keyword_head",
                "rule's head has no name but keywords before its first bracket".to_owned(),
                "give it a name that is no keyword",
            );
            return None;
        };
        let mut package = self.package.clone();
        package.extend(head.constant.iter().take(keywords).cloned());
        Some(Lift { package, cut: Extent { start, end } })
    }

    #[expect(clippy::too_many_arguments, reason = "one constructor for the two forms of a rule")]
    fn assemble(
        &self,
        head: Head<'_>,
        shape: Shape,
        value: Option<Term>,
        branches: Vec<Branch>,
        span: &unstable::Span,
        head_span: &unstable::Span,
        is_default: bool,
    ) -> Rule {
        let mut path = self.package.clone();
        path.extend(head.constant);
        Rule {
            module: self.module,
            path,
            keys: Vec::new(),
            is_deep: head.is_deep,
            shape,
            is_default,
            value,
            branches,
            extent: self.span(span),
            head_end: self.span(head_span).end,
            is_entrypoint: false,
            lift: None,
        }
    }

    // Arguments are always new names, whatever a rule of the package is called.
    fn open_arguments(&mut self, args: &[Ref<unstable::Expr>]) -> Vec<Term> {
        let mut scope = BTreeMap::new();
        for arg in args {
            self.declare_pattern(arg, DeclaredBy::Pattern, &mut scope);
        }
        self.scopes.push(scope);
        args.iter().map(|arg| self.term(arg)).collect()
    }

    fn declare_pattern(
        &self,
        pattern: &unstable::Expr,
        kind: DeclaredBy,
        scope: &mut BTreeMap<String, Declared>,
    ) {
        match pattern {
            unstable::Expr::Var { span, .. } => self.declare(span, kind, scope),
            unstable::Expr::Array { items, .. } | unstable::Expr::Set { items, .. } => {
                for item in items {
                    self.declare_pattern(item, kind, scope);
                }
            }
            unstable::Expr::Object { fields, .. } => {
                for (_, _, value) in fields {
                    self.declare_pattern(value, kind, scope);
                }
            }
            _ => {}
        }
    }

    fn declare(&self, span: &unstable::Span, kind: DeclaredBy, scope: &mut BTreeMap<String, Declared>) {
        let name = span.text();
        if name != "_" {
            let declared =
                Declared { extent: self.span(span), kind, is_used: false, renamed: None, is_reached: false };
            scope.entry(name.to_owned()).or_insert(declared);
        }
    }

    fn open_body(&mut self, query: &Query) {
        let mut scope = BTreeMap::new();
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { vars, .. } => {
                    for var in vars {
                        self.declare(var, DeclaredBy::Some, &mut scope);
                    }
                }
                Literal::SomeIn { key, value, .. } => {
                    for pattern in key.iter().chain([value]) {
                        self.declare_pattern(pattern, DeclaredBy::Iteration, &mut scope);
                    }
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => {
                    if let unstable::Expr::AssignExpr { op: unstable::AssignOp::ColEq, lhs, .. } = &**expr {
                        match &**lhs {
                            unstable::Expr::Var { span, .. } => {
                                self.declare(span, DeclaredBy::Assignment, &mut scope);
                            }
                            pattern => self.declare_pattern(pattern, DeclaredBy::Pattern, &mut scope),
                        }
                    }
                }
                Literal::Every { .. } => {}
            }
        }
        for (name, declared) in &mut scope {
            if declared.kind == DeclaredBy::Iteration && self.is_taken(name) {
                declared.renamed = Some(self.unused(name));
            }
        }
        self.scopes.push(scope);
    }

    /// Whether a name stands for something around the body at hand.
    fn is_taken(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.contains_key(name))
            || self.names.is_rule(&self.package, name)
            || self.imports.contains_key(name)
    }

    /// A name like this one that stands nowhere in the module; the same one each time at one depth.
    fn unused(&self, name: &str) -> String {
        let mut unused = format!("{name}__{}", self.scopes.len());
        while self.parsed.text.content.contains(&unused) {
            unused.push('_');
        }
        unused
    }

    /// Adds the names of a further body to those its head can use.
    fn share(&mut self, names: BTreeMap<String, Declared>, head: &mut BTreeMap<String, Declared>) {
        for (name, declared) in names {
            let differs = head.get(&name).is_some_and(|other| other.renamed != declared.renamed);
            if differs {
                let message = format!("variable `{name}` hides something in one body and not in another");
                self.fault(declared.extent, "hidden_name", message, "give it another name");
            }
            head.insert(name, declared);
        }
    }

    fn close_scope(&mut self) {
        let scope = self.scopes.pop().unwrap_or_default();
        for (name, declared) in scope.into_iter().filter(|(_, declared)| !declared.is_used) {
            match declared.kind {
                DeclaredBy::Some => self.fault(
                    declared.extent,
                    "unused_variable",
                    format!("declared variable `{name}` is not used"),
                    "remove it, or write `_`",
                ),
                DeclaredBy::Assignment => {
                    let place = self.parsed.text.place(declared.extent.start);
                    let message = format!("assigned variable `{name}` is not used");
                    self.warnings.push(
                        Fault::new(place, "unused_assignment", message).hint("remove it, or write `_`"),
                    );
                }
                DeclaredBy::Pattern | DeclaredBy::Iteration => {}
            }
        }
    }

    fn body(&mut self, query: &Query) -> Body {
        let outer = std::mem::replace(&mut self.position, Position::Plain);
        let statements: Vec<Statement> =
            query.stmts.iter().map(|statement| self.statement(statement)).collect();
        self.position = outer;
        let mut extent = self.span(&query.span);
        let is_delimited = statements.first().is_none_or(|first| first.extent.start > extent.start);
        if let (false, Some(last)) = (is_delimited, statements.last()) {
            extent.end = last.extent.end;
        }
        Body { statements, extent, is_delimited }
    }

    fn statement(&mut self, statement: &LiteralStmt) -> Statement {
        let kind = match &statement.literal {
            Literal::SomeVars { vars, .. } => {
                StatementKind::Declare(vars.iter().map(|var| var.text().to_owned()).collect())
            }
            Literal::SomeIn { key, value, collection, .. } => StatementKind::SomeIn {
                collection: self.term(collection),
                key: key.as_ref().map(|key| self.in_position(Position::Pattern, |this| this.term(key))),
                value: self.in_position(Position::Pattern, |this| this.term(value)),
            },
            Literal::Expr { expr, .. } => StatementKind::Holds(self.statement_term(expr)),
            Literal::NotExpr { expr, .. } => {
                StatementKind::Not(self.in_position(Position::Negated, |this| this.statement_term(expr)))
            }
            Literal::Every { key, value, domain, query, .. } => {
                let domain = self.term(domain);
                let mut scope = BTreeMap::new();
                key.iter().chain([value]).for_each(|var| self.declare(var, DeclaredBy::Some, &mut scope));
                self.scopes.push(scope);
                self.open_body(query);
                let body = self.body(query);
                self.close_scope();
                self.close_scope();
                StatementKind::Every {
                    key: key.as_ref().map(|key| key.text().to_owned()),
                    value: value.text().to_owned(),
                    domain,
                    body,
                }
            }
        };
        let withs = statement.with_mods.iter().filter_map(|with| self.with(with)).collect();
        Statement { kind, withs, extent: self.span(&statement.span) }
    }

    fn in_position<T>(&mut self, position: Position, run: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.position, position);
        let result = run(self);
        self.position = outer;
        result
    }

    fn with(&mut self, with: &unstable::WithModifier) -> Option<With> {
        let extent = self.span(&with.span);
        let name_extent = self.span(with.refr.span());
        let path = names::constant_path(&with.refr)?;
        let callee = match self.resolve_callee(&path) {
            Some(Target::Unknown) | None => None,
            Some(target) => Some(Callee { target, extent: name_extent }),
        };
        let Some(callee) = callee else {
            let Some(document) = self.document(&path) else {
                let message = format!("`with` cannot replace `{}`: nothing has this name", path.join("."));
                let hint = "replace `input`, a path under `data`, or a function";
                self.fault(name_extent, "unknown_with_target", message, hint);
                return None;
            };
            return Some(With {
                target: WithTarget::Document(document),
                value: self.term(&with.r#as),
                extent,
            });
        };
        let replacement = self.replacement(&with.r#as);
        // The name of a function is no value.
        let value = match &replacement {
            Some(replacement) => Term { kind: TermKind::Wildcard, extent: replacement.extent },
            None => self.term(&with.r#as),
        };
        Some(With { target: WithTarget::Function { callee, replacement }, value, extent })
    }

    fn replacement(&mut self, value: &unstable::Expr) -> Option<Callee> {
        let path = names::constant_path(value)?;
        let root = path.first()?;
        if self.scopes.iter().any(|scope| scope.contains_key(root)) {
            return None;
        }
        match self.resolve_callee(&path)? {
            Target::Unknown => None,
            target => Some(Callee { target, extent: self.span(value.span()) }),
        }
    }

    /// The document a written path names in a `with`.
    fn document(&mut self, path: &[String]) -> Option<DocumentPath> {
        let (root, rest) = path.split_first()?;
        if root == "input" {
            return Some(DocumentPath { of_input: true, path: rest.to_vec() });
        }
        let path = self.data_path(path)?;
        Some(DocumentPath { of_input: false, path })
    }

    /// The `data` path a written path stands for, through imports.
    fn data_path(&mut self, path: &[String]) -> Option<Path> {
        let (root, rest) = path.split_first()?;
        if root == "data" {
            return Some(rest.to_vec());
        }
        let import = self.imports.get_mut(root).filter(|import| !import.of_input)?;
        import.is_used = true;
        Some(import.path.iter().chain(rest).cloned().collect())
    }

    /// What a dotted name in call position runs; `None` when it is no function's name at all.
    fn resolve_callee(&mut self, path: &[String]) -> Option<Target> {
        if let Some(full) = self.data_path(path) {
            return self.names.is_function(&full).then_some(Target::Function(full)).or(Some(Target::Unknown));
        }
        let local: Path = self.package.iter().chain(path).cloned().collect();
        if self.names.is_function(&local) {
            return Some(Target::Function(local));
        }
        super::builtin::is_known(&path.join(".")).then(|| Target::Builtin(path.join(".")))
    }

    fn check_free(&mut self) {
        let free = std::mem::take(&mut self.free);
        let bound: BTreeSet<&str> =
            free.iter().filter(|use_| use_.binds).map(|use_| use_.name.as_str()).collect();
        let mut seen = BTreeSet::new();
        for use_ in &free {
            if !bound.contains(use_.name.as_str()) && seen.insert(use_.name.clone()) {
                let hint = match self.names.closest(&self.package, &use_.name) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "nothing gives it a value: check its spelling, or bind it with `:=` or `some`"
                        .to_owned(),
                };
                self.fault(
                    use_.extent,
                    "unsafe_variable",
                    format!("variable `{}` is unsafe", use_.name),
                    &hint,
                );
            }
        }
    }
}
