//! What the modules define: rule names by package, functions with their arities, imports.

use std::collections::{BTreeMap, BTreeSet};

use regorus::{
    Value,
    unstable::{self, Expr, RuleHead},
};

use super::{
    super::{
        desugar::unmangled,
        fault::Fault,
        parse::Parsed,
        tree::{Extent, Path, dotted},
    },
    Import,
};

/// Rule names by package, and function paths with their arity.
#[derive(Debug, Default)]
pub(super) struct Names {
    rules: BTreeMap<Path, BTreeSet<String>>,
    functions: BTreeMap<Path, usize>,
}

/// A rule's head reference, split at its first part that is not constant.
#[derive(Debug, Default)]
pub(super) struct Head<'a> {
    pub(super) constant: Path,
    pub(super) keys: Vec<&'a Expr>,
    /// Whether more than one part follows the constant one.
    pub(super) is_deep: bool,
    /// Where the names of the constant part begin; nothing where one is not written with a dot.
    pub(super) starts: Vec<Option<usize>>,
}

impl Names {
    pub(super) fn gather(modules: &[Parsed], faults: &mut Vec<Fault>) -> Self {
        let mut names = Self::default();
        for parsed in modules {
            let package = package_of(&parsed.syntax);
            for rule in &parsed.syntax.policy {
                let (refr, arity) = match &**rule {
                    unstable::Rule::Spec { head: RuleHead::Func { refr, args, .. }, .. } => {
                        (refr, Some(args.len()))
                    }
                    unstable::Rule::Spec {
                        head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. },
                        ..
                    } => (refr, None),
                    unstable::Rule::Default { refr, args, .. } => {
                        (refr, (!args.is_empty()).then_some(args.len()))
                    }
                };
                let head = head_of(refr);
                let Some(name) = head.constant.first() else { continue };
                names.rules.entry(package.clone()).or_default().insert(name.clone());
                if let Some(arity) = arity {
                    let path: Path = package.iter().chain(&head.constant).cloned().collect();
                    let known = *names.functions.entry(path.clone()).or_insert(arity);
                    if known != arity {
                        faults.push(
                            Fault::new(
                                parsed.text.place(rule.span().start as usize),
                                "arity_mismatch",
                                format!(
                                    "function `{}` takes {known} arguments elsewhere, {arity} here",
                                    dotted(&path)
                                ),
                            )
                            .hint("give every definition of a function the same number of arguments"),
                        );
                    }
                }
            }
        }
        names
    }

    pub(super) fn is_rule(&self, package: &[String], name: &str) -> bool {
        self.rules.get(package).is_some_and(|rules| rules.contains(name))
    }

    pub(super) fn is_function(&self, path: &[String]) -> bool {
        self.functions.contains_key(path)
    }

    pub(super) fn arity(&self, path: &[String]) -> Option<usize> {
        self.functions.get(path).copied()
    }

    /// The rule of a package, `input` or `data` whose name is nearest to a misspelt one.
    pub(super) fn closest(&self, package: &[String], name: &str) -> Option<String> {
        let rules = self.rules.get(package).into_iter().flatten().map(String::as_str);
        super::super::builtin::closest(name, rules.chain(["input", "data"]))
    }
}

pub(super) fn package_of(module: &unstable::Module) -> Path {
    constant_path(&module.package.refr).unwrap_or_default()
}

/// The alias of an import and what it stands for; nothing for keyword imports and bare roots.
pub(super) fn import_of(import: &unstable::Import) -> Option<(String, Import, unstable::Span)> {
    let path = constant_path(&import.refr)?;
    let (root, rest) = path.split_first()?;
    let of_input = match root.as_str() {
        "input" => true,
        "data" => false,
        _ => return None,
    };
    let alias = match &import.r#as {
        Some(alias) => alias.text().to_owned(),
        None => rest.last()?.clone(),
    };
    Some((
        alias,
        Import { of_input, path: rest.to_vec(), extent: Extent::default(), is_used: false },
        import.span.clone(),
    ))
}

/// The components of a reference made of names and constant strings only.
pub(super) fn constant_path(expr: &Expr) -> Option<Path> {
    let head = head_of(expr);
    (head.keys.is_empty() && !head.constant.is_empty()).then_some(head.constant)
}

pub(super) fn head_of(expr: &Expr) -> Head<'_> {
    let mut reversed = Vec::new();
    let mut at = expr;
    let start_of = |span: &unstable::Span| Some(span.start as usize);
    loop {
        match at {
            Expr::RefDot { refr, field, .. } => {
                reversed.push(Err((field.0.text().to_owned(), start_of(&field.0))));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                reversed.push(match &**index {
                    Expr::String { value: Value::String(key), .. }
                    | Expr::RawString { value: Value::String(key), .. } => Err((key.to_string(), None)),
                    _ => Ok(&**index),
                });
                at = refr;
            }
            Expr::Var { span, .. } => {
                reversed.push(Err((unmangled(span.text()).to_owned(), start_of(span))));
                break;
            }
            _ => return Head { keys: vec![expr], ..Head::default() },
        }
    }
    let mut head = Head::default();
    for part in reversed.into_iter().rev() {
        head.is_deep |= !head.keys.is_empty();
        match part {
            Err((name, start)) if head.keys.is_empty() => {
                head.constant.push(name);
                head.starts.push(start);
            }
            // A constant behind a variable part is looked up like any other key: it constrains
            // nothing an analysis may rely on.
            Err(_) => {}
            Ok(key) => head.keys.push(key),
        }
    }
    head
}
