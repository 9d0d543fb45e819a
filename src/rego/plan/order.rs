//! The order in which the goals of a body run: each when what it needs is bound, as OPA's
//! compiler orders them, so that results come in the same order too.

use std::collections::BTreeSet;

use super::flatten::{Atom, FlatReplacement, FlatWith, Goal, GoalKind, Goals, Root, Var};

pub(super) type Vars = BTreeSet<Var>;

/// The order of a body's goals by index; `Err` with those that can never run.
pub(super) fn order(goals: &Goals, bound: &Vars) -> Result<Vec<usize>, Vec<usize>> {
    let own: Vec<Vars> = goals.goals.iter().map(|goal| own_vars(goals, goal)).collect();
    let body: Vars = own.iter().flatten().copied().collect();
    let closed: Vec<Vars> = goals
        .goals
        .iter()
        .map(|goal| closure_vars(&goal.kind).intersection(&body).copied().collect())
        .collect();
    let mut safe = bound.clone();
    let mut done = Vec::new();
    let mut open: Vec<usize> = (0..goals.goals.len()).collect();
    loop {
        let before = open.len();
        let mut waiting = Vec::new();
        for index in open {
            let (Some(goal), Some(own), Some(closed)) =
                (goals.goals.get(index), own.get(index), closed.get(index))
            else {
                continue;
            };
            let outputs = outputs(&goal.kind, &safe);
            let ready =
                closed.is_subset(&safe) && own.iter().all(|var| safe.contains(var) || outputs.contains(var));
            if ready {
                safe.extend(outputs);
                done.push(index);
            } else {
                waiting.push(index);
            }
        }
        if waiting.is_empty() {
            return Ok(done);
        }
        if waiting.len() == before {
            return Err(waiting);
        }
        open = waiting;
    }
}

/// Variables a goal mentions outside closures.
fn own_vars(goals: &Goals, goal: &Goal) -> Vars {
    let mut vars = Vars::new();
    kind_vars(&goal.kind, &mut vars);
    for with in goal.withs.and_then(|withs| goals.withs.get(withs)).into_iter().flatten() {
        with_vars(with, &mut vars);
    }
    vars
}

fn with_vars(with: &FlatWith, vars: &mut Vars) {
    match with {
        FlatWith::Document { value, .. } | FlatWith::Function { by: FlatReplacement::Value(value), .. } => {
            atom_vars(value, vars);
        }
        FlatWith::Function { by: FlatReplacement::Function(_), .. } => {}
    }
}

fn kind_vars(kind: &GoalKind, vars: &mut Vars) {
    match kind {
        GoalKind::Holds(atom) => atom_vars(atom, vars),
        GoalKind::Unify(left, right) => {
            atom_vars(left, vars);
            atom_vars(right, vars);
        }
        GoalKind::Call { arguments, result, .. } => {
            for atom in arguments.iter().chain(result) {
                atom_vars(atom, vars);
            }
        }
        GoalKind::Collect { result, .. } => {
            vars.insert(*result);
        }
        GoalKind::Not(inner) => kind_vars(inner, vars),
        GoalKind::Every { domain, .. } => atom_vars(domain, vars),
    }
}

pub(super) fn atom_vars(atom: &Atom, vars: &mut Vars) {
    match atom {
        Atom::Constant(_) => {}
        Atom::Var(var) => {
            vars.insert(*var);
        }
        Atom::Reference { root, steps } => {
            if let Root::Atom(base) = root {
                atom_vars(base, vars);
            }
            for step in steps {
                atom_vars(step, vars);
            }
        }
        Atom::Array(items) | Atom::Set(items) => {
            for item in items {
                atom_vars(item, vars);
            }
        }
        Atom::Object(fields) => {
            for (key, value) in fields {
                atom_vars(key, vars);
                atom_vars(value, vars);
            }
        }
    }
}

/// Variables that stand in the closures of a goal.
fn closure_vars(kind: &GoalKind) -> Vars {
    let mut vars = Vars::new();
    match kind {
        GoalKind::Collect { heads, body, .. } => {
            for head in heads {
                atom_vars(head, &mut vars);
            }
            all_vars(body, &mut vars);
        }
        GoalKind::Every { body, .. } => all_vars(body, &mut vars),
        GoalKind::Holds(_) | GoalKind::Unify(..) | GoalKind::Call { .. } | GoalKind::Not(_) => {}
    }
    vars
}

fn all_vars(goals: &Goals, vars: &mut Vars) {
    for goal in &goals.goals {
        kind_vars(&goal.kind, vars);
        vars.extend(closure_vars(&goal.kind));
    }
    for with in goals.withs.iter().flatten() {
        with_vars(with, vars);
    }
}

/// Variables a goal binds when those in `safe` are.
fn outputs(kind: &GoalKind, safe: &Vars) -> Vars {
    let mut found = Vars::new();
    match kind {
        GoalKind::Holds(atom) => reference_outputs(atom, safe, &mut found),
        GoalKind::Unify(left, right) => {
            reference_outputs(left, safe, &mut found);
            reference_outputs(right, safe, &mut found);
            let mut known: Vars = safe.union(&found).copied().collect();
            unify(left, right, &mut known);
            found.extend(known);
        }
        GoalKind::Call { arguments, result, .. } => {
            for atom in arguments.iter().chain(result) {
                reference_outputs(atom, safe, &mut found);
            }
            // The output of a call is bound when all it is given is.
            let mut given = Vars::new();
            for atom in arguments {
                atom_vars(atom, &mut given);
            }
            if let Some(result) = result
                && given.iter().all(|var| safe.contains(var) || found.contains(var))
            {
                pattern_outputs(result, &mut found);
            }
        }
        GoalKind::Collect { result, .. } => {
            found.insert(*result);
        }
        GoalKind::Every { domain, .. } => reference_outputs(domain, safe, &mut found),
        GoalKind::Not(_) => {}
    }
    found
}

/// Variables in the brackets of references whose base is known.
fn reference_outputs(atom: &Atom, safe: &Vars, found: &mut Vars) {
    match atom {
        Atom::Constant(_) | Atom::Var(_) => {}
        Atom::Reference { root, steps } => {
            if let Root::Atom(base) = root {
                let mut base_vars = Vars::new();
                atom_vars(base, &mut base_vars);
                if !base_vars.is_subset(safe) {
                    return;
                }
            }
            for step in steps {
                atom_vars(step, found);
            }
        }
        Atom::Array(items) | Atom::Set(items) => {
            for item in items {
                reference_outputs(item, safe, found);
            }
        }
        Atom::Object(fields) => {
            for (key, value) in fields {
                reference_outputs(key, safe, found);
                reference_outputs(value, safe, found);
            }
        }
    }
}

/// Adds the variables that an equation of two terms binds, given those already known.
fn unify(left: &Atom, right: &Atom, known: &mut Vars) {
    let is_known = |atom: &Atom, known: &Vars| {
        let mut vars = Vars::new();
        atom_vars(atom, &mut vars);
        vars.is_subset(known)
    };
    match (left, right) {
        (Atom::Array(left), Atom::Array(right)) if left.len() == right.len() => {
            for (left, right) in left.iter().zip(right) {
                unify(left, right, known);
            }
        }
        (Atom::Object(left), Atom::Object(right)) => {
            for (key, left) in left {
                let same = |(other, _): &&(Atom, Atom)| match (key, other) {
                    (Atom::Constant(key), Atom::Constant(other)) => key == other,
                    (Atom::Var(key), Atom::Var(other)) => key == other,
                    _ => false,
                };
                if let Some((_, right)) = right.iter().find(same) {
                    unify(left, right, known);
                }
            }
        }
        (pattern, value) | (value, pattern) if is_known(value, known) && !is_known(pattern, known) => {
            pattern_outputs(pattern, known);
        }
        _ => {}
    }
}

fn pattern_outputs(pattern: &Atom, known: &mut Vars) {
    match pattern {
        Atom::Var(var) => {
            known.insert(*var);
        }
        Atom::Array(items) => {
            for item in items {
                pattern_outputs(item, known);
            }
        }
        Atom::Object(fields) => {
            for (_, value) in fields {
                pattern_outputs(value, known);
            }
        }
        Atom::Constant(_) | Atom::Reference { .. } | Atom::Set(_) => {}
    }
}
