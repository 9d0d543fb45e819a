//! Names that hide others: a variable or an argument that hides a rule, an import, a built-in or a variable around it; a
//! rule or an import that hides a built-in.
//!
//! OPA takes them, and whoever reads the policy next reads the wrong thing.

use crate::rego::builtin;
use crate::rego::fault::Fault;
use crate::rego::tree::{
    Body, Extent, ModuleId, Rule, Shape, Statement, StatementKind, Term, TermKind, Tree, walk_own,
};

/// All such names of a program.
pub(super) fn names(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (id, module) in tree.modules.iter().enumerate() {
        for (name, extent) in &module.import_names {
            if builtin::is_root(name) {
                faults.push(fault(tree, id, extent.start, &format!("import `{name}`"), name, "a built-in"));
            }
        }
    }
    for rule in &tree.rules {
        if let Some(name) = name_of(tree, rule)
            && builtin::is_root(name)
            && !rule.is_default
        {
            faults.push(fault(
                tree,
                rule.module,
                rule.extent.start,
                &format!("rule `{name}`"),
                name,
                "a built-in",
            ));
        }
        let mut walk = Walk { tree, module: rule.module, scopes: Vec::new(), faults: &mut faults };
        walk.rule(rule);
    }
    faults
}

fn name_of<'a>(tree: &Tree, rule: &'a Rule) -> Option<&'a str> {
    let package = &tree.modules.get(rule.module)?.package;
    rule.path.get(package.len()).map(String::as_str)
}

fn fault(tree: &Tree, module: ModuleId, at: usize, who: &str, name: &str, hidden: &str) -> Fault {
    let hidden = match hidden {
        "a built-in" if builtin::is_known(name) => format!("the built-in `{name}`"),
        "a built-in" => format!("the built-ins `{name}.*`"),
        other => other.to_owned(),
    };
    Fault::new(tree.place(module, at), "shadowing", format!("{who} hides {hidden}"))
        .hint("give it another name")
}

/// Names in force, from the outermost scope: the name, and what it is.
type Scope<'a> = Vec<(&'a str, &'static str)>;

struct Walk<'a, 'f> {
    tree: &'a Tree,
    module: ModuleId,
    scopes: Vec<Scope<'a>>,
    faults: &'f mut Vec<Fault>,
}

impl<'a> Walk<'a, '_> {
    fn rule(&mut self, rule: &'a Rule) {
        let mut arguments = Scope::new();
        if let Shape::Function(terms) = &rule.shape {
            for term in terms {
                self.pattern(term, "argument", &mut arguments);
            }
        }
        self.scopes.push(arguments);
        let mut named = false;
        for branch in &rule.branches {
            self.body(&branch.body, &mut |walk| {
                branch.value.iter().for_each(|value| walk.term(value));
                // The head is in the scope of the first body; once is enough.
                if !named {
                    rule.value.iter().chain(&rule.keys).for_each(|term| walk.term(term));
                }
                named = true;
            });
        }
        if rule.branches.is_empty() {
            rule.value.iter().chain(&rule.keys).for_each(|term| self.term(term));
        }
        self.scopes.pop();
    }

    fn body(&mut self, body: &'a Body, inside: &mut dyn FnMut(&mut Self)) {
        let mut scope = Scope::new();
        for statement in &body.statements {
            self.declared(statement, &mut scope);
        }
        self.scopes.push(scope);
        for statement in &body.statements {
            statement.terms().into_iter().for_each(|term| self.term(term));
            if let StatementKind::Every { key, value, body, .. } = &statement.kind {
                let mut scope = Scope::new();
                for name in key.iter().chain([value]) {
                    let at = self.offset_of(statement.extent, name);
                    self.declare(name, at, "variable", &mut scope);
                }
                self.scopes.push(scope);
                self.body(body, &mut |_| {});
                self.scopes.pop();
            }
        }
        inside(self);
        self.scopes.pop();
    }

    /// Bodies of the comprehensions in a term, whose heads are in the scope of the body.
    fn term(&mut self, term: &'a Term) {
        if let TermKind::Comprehension { heads, body, .. } = &term.kind {
            self.body(body, &mut |walk| heads.iter().for_each(|head| walk.term(head)));
        } else {
            term.children().into_iter().for_each(|child| self.term(child));
        }
    }

    fn declared(&mut self, statement: &'a Statement, scope: &mut Scope<'a>) {
        match &statement.kind {
            StatementKind::Declare(names) => {
                for name in names {
                    let at = self.offset_of(statement.extent, name);
                    self.declare(name, at, "variable", scope);
                }
            }
            StatementKind::SomeIn { key, value, .. } => {
                for pattern in key.iter().chain([value]) {
                    self.pattern(pattern, "variable", scope);
                }
            }
            StatementKind::Holds(Term { kind: TermKind::Unify { declares: true, left, .. }, .. }) => {
                self.pattern(left, "variable", scope);
            }
            StatementKind::Holds(_) | StatementKind::Not(_) | StatementKind::Every { .. } => {}
        }
    }

    fn pattern(&mut self, pattern: &'a Term, what: &'static str, scope: &mut Scope<'a>) {
        walk_own(pattern, &mut |term| {
            if let TermKind::Local(name) = &term.kind {
                self.declare(name, term.extent.start, what, scope);
            }
        });
    }

    fn declare(&mut self, name: &'a str, at: usize, what: &'static str, scope: &mut Scope<'a>) {
        if scope.iter().any(|(known, _)| *known == name) {
            return;
        }
        if let Some(hidden) = self.hidden(name) {
            self.faults.push(fault(self.tree, self.module, at, &format!("{what} `{name}`"), name, &hidden));
        }
        scope.push((name, what));
    }

    /// What a new name hides.
    fn hidden(&self, name: &str) -> Option<String> {
        if let Some((_, what)) = self.scopes.iter().rev().flatten().find(|(known, _)| *known == name) {
            return Some(format!("the {what} `{name}` around it"));
        }
        let module = self.tree.modules.get(self.module)?;
        let mut path = module.package.clone();
        path.push(name.to_owned());
        if let Some(rule) = self.tree.rules.iter().find(|rule| rule.path.starts_with(&path)) {
            let place = self.tree.place(rule.module, rule.extent.start);
            let what = if rule.is_function() { "function" } else { "rule" };
            return Some(format!("the {what} `{name}` at {place}"));
        }
        if let Some((_, extent)) = module.import_names.iter().find(|(known, _)| known == name) {
            return Some(format!("the import `{name}` at {}", self.tree.place(self.module, extent.start)));
        }
        if name == "input" || name == "data" {
            return Some(format!("the document `{name}`"));
        }
        builtin::is_root(name).then(|| "a built-in".to_owned())
    }

    /// Where a name stands in a statement that the tree has no finer extents for.
    fn offset_of(&self, extent: Extent, name: &str) -> usize {
        let text = self.tree.slice(self.module, extent);
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        let whole = |at: &usize| {
            let before = text.get(..*at).and_then(|before| before.chars().next_back());
            let after = text.get(at + name.len()..).and_then(|after| after.chars().next());
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        };
        let found = text.match_indices(name).map(|(at, _)| at).find(whole);
        extent.start + found.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::program::{Module, Options, compile};

    #[track_caller]
    fn check(text: &str, want: &[&str]) {
        let text = format!("package a\nimport data.lib\nallow if lib.x\nf(_) := 1\nuses := f(1)\n{text}\n");
        let modules = vec![Module { path: "p".into(), text }];
        let program = compile(&modules, regorus::Value::new_object(), Options::default())
            .unwrap_or_else(|e| panic!("{e}"));
        let found: Vec<String> = names(program.tree()).iter().map(ToString::to_string).collect();
        let found: Vec<&str> = found.iter().filter_map(|line| line.split("\n  hint").next()).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn locals_hide_rules_functions_imports_and_built_ins() {
        check("p if { allow := 1; allow > 0 }", &["p:6:8: variable `allow` hides the rule `allow` at p:3:1"]);
        check("p if { some f; f = 1 }", &["p:6:13: variable `f` hides the function `f` at p:4:1"]);
        check("p(lib) if lib", &["p:6:3: argument `lib` hides the import `lib` at p:2:1"]);
        check("p if { count := 1; count > 0 }", &["p:6:8: variable `count` hides the built-in `count`"]);
        check("p if { time := 1; time > 0 }", &["p:6:8: variable `time` hides the built-ins `time.*`"]);
        check(
            "p if { some x, allow; [x, allow] = [1, 2] }",
            &["p:6:16: variable `allow` hides the rule `allow` at p:3:1"],
        );
        check("count := 1", &["p:6:1: rule `count` hides the built-in `count`"]);
    }

    #[test]
    fn locals_hide_those_around_them() {
        let variable = |at| format!("p:6:{at}: variable `x` hides the variable `x` around it");
        check(
            "p(x) if { y := [1 | x := 2; x]; y }",
            &["p:6:21: variable `x` hides the argument `x` around it"],
        );
        check("p if { x := 1; every x in [1] { x } }", &[&variable(22)]);
        check("p if { x := 1; x == count({1 | x := 2; x}) }", &[&variable(32)]);
    }

    #[test]
    fn what_hides_nothing_is_fine() {
        check("p if { x := 1; x > 0 } else := x if { x := 2 }\nq if { x := lib.y; x }", &[]);
        check("p := [x | some x in [1]]\nq := [x | some x in [1]]", &[]);
        check("p if { x := input.a; y := [x | some z in [x]; z == x]; y }", &[]);
    }
}
