//! Expressions to terms.

use regorus::{
    Value,
    unstable::{ArithOp, AssignOp, BinOp, BoolOp, Expr, Query, Ref, Span},
};

use super::{
    super::{
        builtin::{self, Known},
        desugar::{is_keyword, unmangled},
        parse::Kind,
        tree::{
            Body, Callee, Collection, Extent, Operator, Path, Target, Term, TermKind, dotted, push_component,
            written,
        },
    },
    Free, Lowering, Position, names,
};

impl Lowering<'_> {
    /// A term that is a statement: a call may name its result as one more argument.
    pub(super) fn statement_term(&mut self, expr: &Expr) -> Term {
        match expr {
            Expr::Call { fcn, params, .. } => self.call(expr, fcn, params, true),
            _ => self.term(expr),
        }
    }

    pub(super) fn term(&mut self, expr: &Expr) -> Term {
        let kind = match expr {
            Expr::String { value, .. }
            | Expr::RawString { value, .. }
            | Expr::Number { value, .. }
            | Expr::Bool { value, .. }
            | Expr::Null { value, .. } => TermKind::Scalar(value.clone()),
            Expr::Var { span, .. } => self.name(span),
            Expr::Array { items, .. } => TermKind::Array(self.terms(items)),
            Expr::Set { items, .. } => TermKind::Set(self.terms(items)),
            Expr::Object { fields, .. } => TermKind::Object(
                fields.iter().map(|(_, key, value)| (self.term(key), self.term(value))).collect(),
            ),
            Expr::ArrayCompr { term, query, .. } => self.comprehension(Collection::Array, &[term], query),
            Expr::SetCompr { term, query, .. } => self.comprehension(Collection::Set, &[term], query),
            Expr::ObjectCompr { key, value, query, .. } => {
                self.comprehension(Collection::Object, &[key, value], query)
            }
            Expr::Call { fcn, params, .. } => return self.call(expr, fcn, params, false),
            Expr::RefDot { .. } | Expr::RefBrack { .. } => return self.reference(expr),
            Expr::UnaryExpr { expr, .. } => TermKind::Negative(Box::new(self.term(expr))),
            Expr::BinExpr { op, lhs, rhs, .. } => {
                let operator = match op {
                    BinOp::Intersection => Operator::Intersection,
                    BinOp::Union => Operator::Union,
                };
                self.infix(operator, lhs, rhs)
            }
            Expr::ArithExpr { op, lhs, rhs, .. } => {
                let operator = match op {
                    ArithOp::Add => Operator::Add,
                    ArithOp::Sub => Operator::Subtract,
                    ArithOp::Mul => Operator::Multiply,
                    ArithOp::Div => Operator::Divide,
                    ArithOp::Mod => Operator::Remainder,
                };
                self.infix(operator, lhs, rhs)
            }
            Expr::BoolExpr { op, lhs, rhs, .. } => {
                let operator = match op {
                    BoolOp::Eq => Operator::Equal,
                    BoolOp::Ne => Operator::NotEqual,
                    BoolOp::Lt => Operator::Less,
                    BoolOp::Le => Operator::LessOrEqual,
                    BoolOp::Gt => Operator::Greater,
                    BoolOp::Ge => Operator::GreaterOrEqual,
                };
                self.infix(operator, lhs, rhs)
            }
            Expr::AssignExpr { op, lhs, rhs, .. } => self.unify(op, lhs, rhs),
            Expr::Membership { key, value, collection, .. } => TermKind::Membership {
                key: key.as_ref().map(|key| Box::new(self.term(key))),
                value: Box::new(self.term(value)),
                collection: Box::new(self.term(collection)),
            },
        };
        Term { kind, extent: self.extent(expr) }
    }

    fn terms(&mut self, items: &[Ref<Expr>]) -> Vec<Term> {
        items.iter().map(|item| self.term(item)).collect()
    }

    fn infix(&mut self, operator: Operator, left: &Expr, right: &Expr) -> TermKind {
        let inside = if self.position == Position::Negated { Position::Negated } else { Position::Plain };
        self.in_position(inside, |this| TermKind::Infix {
            operator,
            left: Box::new(this.term(left)),
            right: Box::new(this.term(right)),
        })
    }

    fn unify(&mut self, operator: &AssignOp, left: &Expr, right: &Expr) -> TermKind {
        let inside = if self.position == Position::Negated { Position::Negated } else { Position::Pattern };
        let declares = *operator == AssignOp::ColEq;
        self.in_position(inside, |this| {
            let left = match left {
                // Naming a variable to declare it is no use of it.
                Expr::Var { span, .. } if declares && span.text() != "_" => {
                    Term { kind: TermKind::Local(span.text().to_owned()), extent: this.span(span) }
                }
                pattern => this.term(pattern),
            };
            // What is assigned has to be known; only `=` may bind on either side.
            let inside = if declares && inside == Position::Pattern { Position::Plain } else { inside };
            let right = this.in_position(inside, |this| this.term(right));
            TermKind::Unify { declares, left: Box::new(left), right: Box::new(right) }
        })
    }

    fn comprehension(&mut self, makes: Collection, heads: &[&Ref<Expr>], query: &Query) -> TermKind {
        self.in_position(Position::Plain, |this| {
            this.open_body(query);
            let body: Body = this.body(query);
            let heads = heads.iter().map(|head| this.term(head)).collect();
            this.close_scope();
            TermKind::Comprehension { makes, heads, body }
        })
    }

    fn name(&mut self, span: &Span) -> TermKind {
        let name = unmangled(span.text());
        if name == "_" {
            return TermKind::Wildcard;
        }
        let extent = self.span(span);
        if let Some(declared) = self.scopes.iter_mut().rev().find_map(|scope| scope.get_mut(name)) {
            declared.is_used = true;
            declared.is_reached |= declared.extent == extent;
            if let Some(renamed) = declared.renamed.clone() {
                if !declared.is_reached {
                    let message =
                        format!("`{name}` is used before `some {name} in`, which hides what it means here");
                    self.fault(extent, "hidden_name", message, "give the variable of `some` another name");
                }
                self.aliases.push((extent, renamed));
            }
            return TermKind::Local(name.to_owned());
        }
        match name {
            "input" => return TermKind::Input,
            "data" => return TermKind::Data,
            _ => {}
        }
        if self.names.is_rule(&self.package, name) {
            let path: Path = self.package.iter().cloned().chain([name.to_owned()]).collect();
            // Neither a keyword nor a name of another package would be found there.
            if self.is_lifted || is_keyword(name) {
                self.aliases.push((extent, dotted(&path)));
            }
            return below(TermKind::Data, path.into_iter(), extent);
        }
        if let Some(import) = self.imports.get_mut(name) {
            import.is_used = true;
            let (base, root) =
                if import.of_input { (TermKind::Input, "input") } else { (TermKind::Data, "data") };
            let mut full = root.to_owned();
            import.path.iter().for_each(|component| push_component(&mut full, component));
            self.aliases.push((extent, full));
            return below(base, import.path.iter().cloned(), extent);
        }
        let binds = self.position == Position::Pattern;
        self.free.push(Free { name: name.to_owned(), extent, binds });
        TermKind::Local(name.to_owned())
    }

    fn reference(&mut self, expr: &Expr) -> Term {
        let extent = self.extent(expr);
        let mut steps = Vec::new();
        let mut at = expr;
        loop {
            match at {
                Expr::RefDot { refr, field, .. } => {
                    let kind = TermKind::Scalar(Value::from(field.0.text()));
                    steps.push(Term { kind, extent: self.span(&field.0) });
                    at = refr;
                }
                Expr::RefBrack { refr, index, .. } => {
                    let inside = if self.position == Position::Negated {
                        Position::Negated
                    } else {
                        Position::Pattern
                    };
                    steps.push(self.in_position(inside, |this| this.term(index)));
                    at = refr;
                }
                _ => break,
            }
        }
        steps.reverse();
        let base = self.in_position(Position::Plain, |this| this.term(at));
        // A rule's name or an import is itself a reference: one flat list of steps.
        let (base, steps) = match base {
            Term { kind: TermKind::Reference { base, steps: mut first }, .. } => {
                first.extend(steps);
                (base, first)
            }
            base => (Box::new(base), steps),
        };
        Term { kind: TermKind::Reference { base, steps }, extent }
    }

    fn call(&mut self, expr: &Expr, fcn: &Expr, params: &[Ref<Expr>], is_statement: bool) -> Term {
        let name_extent = self.span(fcn.span());
        let path = names::constant_path(fcn).unwrap_or_default();
        let target = self.resolve_callee(&path).unwrap_or(Target::Unknown);
        if params.is_empty()
            && let Some(metadata) = self.metadata(&target)
        {
            let extent = self.extent(expr);
            self.aliases.push((extent, serde_json::to_string(&metadata).unwrap_or_default()));
            return constant(&metadata, extent);
        }
        let target = self.check_call(&path, target, params.len(), is_statement, name_extent);
        let inside = if self.position == Position::Negated { Position::Negated } else { Position::Plain };
        let mut arguments = self.in_position(inside, |this| {
            this.terms(params.get(..params.len().saturating_sub(1)).unwrap_or_default())
        });
        if let Some(last) = params.last() {
            let output =
                is_statement && self.arity_of(&target).is_some_and(|arity| params.len() == arity + 1);
            let inside = if output && inside == Position::Plain { Position::Pattern } else { inside };
            arguments.push(self.in_position(inside, |this| this.term(last)));
        }
        let callee = Callee { target, extent: name_extent };
        Term { kind: TermKind::Call { callee, arguments }, extent: self.extent(expr) }
    }

    /// What a call about annotations answers: they do not change any more.
    fn metadata(&self, target: &Target) -> Option<Value> {
        let Target::Builtin(name) = target else { return None };
        match name.as_str() {
            "rego.metadata.rule" => Some(self.annotations.rule(self.module, self.rule_at)),
            "rego.metadata.chain" => {
                Some(self.annotations.chain(self.module, self.rule_at, &self.rule_path, &self.package))
            }
            _ => None,
        }
    }

    fn arity_of(&self, target: &Target) -> Option<usize> {
        match target {
            Target::Function(path) => self.names.arity(path),
            Target::Builtin(name) => match builtin::find(name) {
                Known::Available { arity } => arity,
                Known::Outside(_) => Some(1),
                Known::Unknown => None,
            },
            Target::Unknown => None,
        }
    }

    fn check_call(
        &mut self,
        path: &[String],
        target: Target,
        given: usize,
        is_statement: bool,
        at: Extent,
    ) -> Target {
        let name = written(path);
        match &target {
            Target::Unknown => {
                let hint = match builtin::nearest(&name) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "define it, import its package, or check its spelling".to_owned(),
                };
                self.fault(at, "unknown_function", format!("unknown function `{name}`"), &hint);
            }
            Target::Builtin(builtin_name) => match builtin::find(builtin_name) {
                Known::Outside(outside) if !self.permitted.allows(outside) => {
                    self.fault(
                        at,
                        "builtin_not_configured",
                        format!("built-in `{name}` is not configured"),
                        &format!(
                            "configure `{}` for the policy, with whom it may ask, or give the facts as data or input",
                            outside.setting()
                        ),
                    );
                    return Target::Unknown;
                }
                Known::Available { .. } | Known::Outside(_) | Known::Unknown => {}
            },
            Target::Function(_) => {}
        }
        if let Some(arity) = self.arity_of(&target)
            && given != arity
            && !(is_statement && given == arity + 1)
        {
            let message = format!("`{name}` takes {arity} arguments, {given} given");
            self.fault(at, "arity_mismatch", message, "give every argument, and no more");
        }
        target
    }

    /// An expression's true extent: two forms carry a wrong one.
    fn extent(&self, expr: &Expr) -> Extent {
        let mut extent = self.span(expr.span());
        match expr {
            Expr::Object { fields, .. } if fields.len() > 1 => {
                if let Some((_, first, _)) = fields.first() {
                    let first = self.extent(first).start;
                    extent.start = self.token_before(first, "{").unwrap_or(extent.start);
                }
            }
            Expr::Set { items, .. } if items.is_empty() => {
                extent.end = self.token_after(extent.start, ")").unwrap_or(extent.end);
            }
            _ => {}
        }
        extent
    }

    fn token_before(&self, at: usize, symbol: &str) -> Option<usize> {
        let tokens = &self.parsed.tokens;
        let until = tokens.partition_point(|token| token.start < at);
        let matches = |token: &&super::Token| {
            token.kind == Kind::Symbol && self.parsed.text.slice(token.start..token.end) == symbol
        };
        tokens.get(..until)?.iter().rev().find(matches).map(|token| token.start)
    }

    fn token_after(&self, at: usize, symbol: &str) -> Option<usize> {
        let tokens = &self.parsed.tokens;
        let from = tokens.partition_point(|token| token.start < at);
        let matches = |token: &&super::Token| {
            token.kind == Kind::Symbol && self.parsed.text.slice(token.start..token.end) == symbol
        };
        tokens.get(from..)?.iter().find(matches).map(|token| token.end)
    }
}

/// A value as the term that makes it.
fn constant(value: &Value, extent: Extent) -> Term {
    let kind = match value {
        Value::Array(items) => TermKind::Array(items.iter().map(|item| constant(item, extent)).collect()),
        Value::Set(items) => TermKind::Set(items.iter().map(|item| constant(item, extent)).collect()),
        Value::Object(fields) => TermKind::Object(
            fields.iter().map(|(key, value)| (constant(key, extent), constant(value, extent))).collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Undefined => {
            TermKind::Scalar(value.clone())
        }
    };
    Term { kind, extent }
}

fn below(base: TermKind, path: impl Iterator<Item = String>, extent: Extent) -> TermKind {
    let steps: Vec<Term> =
        path.map(|key| Term { kind: TermKind::Scalar(Value::from(key)), extent }).collect();
    if steps.is_empty() {
        return base;
    }
    TermKind::Reference { base: Box::new(Term { kind: base, extent }), steps }
}
