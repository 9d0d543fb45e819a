//! Rules the interpreter cannot read where they stand, moved into modules of their own.
//!
//! A head that begins with a keyword does not parse. Its rule is blanked out of its module and put
//! into another one on the same lines, whose package ends with the keyword, so that the document is
//! at the same path. Names in it are written in full already.

use std::collections::BTreeMap;

use super::{
    source::Edit,
    tree::{Extent, ModuleId, Path, Tree, written},
};

/// The edits of each module a file becomes: the file itself first, then one for each package of
/// moved rules.
pub(crate) fn split(tree: &Tree, module: ModuleId, edits: Vec<Edit>) -> Vec<(Option<Path>, Vec<Edit>)> {
    let Some(source) = tree.modules.get(module) else { return Vec::new() };
    let moved = moved_rules(tree, module);
    if moved.is_empty() {
        return vec![(None, edits)];
    }
    let blank = |start: usize, end: usize| Edit {
        range: start..end,
        text: blanked(source.text.slice(start..end)),
        origin: start,
    };
    let all: Vec<Extent> = moved.values().flatten().map(|(whole, _)| *whole).collect();
    let stays = edits.iter().filter(|edit| !all.iter().any(|extent| holds(*extent, edit))).cloned();
    let mut kept: Vec<Edit> = stays.chain(all.iter().map(|extent| blank(extent.start, extent.end))).collect();
    kept.sort_by_key(|edit| edit.range.start);
    let mut modules = vec![(None, kept)];
    for (package, rules) in moved {
        let mut own: Vec<Edit> = Vec::new();
        let clause = source.package_extent;
        own.push(Edit {
            range: clause.range(),
            text: ["package ", &written(&package), &newlines(source.text.slice(clause.range()))].concat(),
            origin: clause.start,
        });
        let mut at = clause.end;
        for (whole, cut) in rules {
            own.push(blank(at, whole.start));
            own.push(Edit { range: cut.range(), text: String::new(), origin: cut.start });
            own.extend(edits.iter().filter(|edit| holds(whole, edit) && !holds(cut, edit)).cloned());
            at = whole.end;
        }
        own.push(blank(at, source.text.content.len()));
        own.sort_by_key(|edit| (edit.range.start, edit.range.end));
        modules.push((Some(package), own));
    }
    modules
}

/// The extents of moved rules and of what is cut from their heads, by package.
fn moved_rules(tree: &Tree, module: ModuleId) -> BTreeMap<Path, Vec<(Extent, Extent)>> {
    let mut moved: BTreeMap<Path, Vec<(Extent, Extent)>> = BTreeMap::new();
    let rules: Vec<_> = tree.rules.iter().filter(|rule| rule.module == module).collect();
    for rule in &rules {
        let Some(lift) = &rule.lift else { continue };
        // A rule's own end is wrong after some values; nothing but comments stands before the next.
        let following = rules.iter().map(|rule| rule.extent.start).filter(|start| *start > rule.extent.start);
        let end =
            following.min().or_else(|| tree.modules.get(module).map(|source| source.text.content.len()));
        let whole = Extent { start: rule.extent.start, end: end.unwrap_or(rule.extent.end) };
        moved.entry(lift.package.clone()).or_default().push((whole, lift.cut));
    }
    moved
}

fn holds(extent: Extent, edit: &Edit) -> bool {
    extent.start <= edit.range.start && edit.range.end <= extent.end
}

fn blanked(text: &str) -> String {
    text.chars().map(|character| if character == '\n' { '\n' } else { ' ' }).collect()
}

fn newlines(text: &str) -> String {
    "\n".repeat(text.matches('\n').count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rego::{
        lower::lower, normalise::normalise, outside::Permitted, parse::parse, source::apply, v0::RegoVersion,
        wrapper::Wrappers,
    };

    #[test]
    fn rules_move_with_their_lines_and_their_names_in_full() {
        let text =
            "package a\nq := 1\nnot.foo(x) := x + q if not.bar\np if not.foo(1) == 2\nnot.bar := q # c\n";
        let lowered = lower(vec![parse("p.rego", text, RegoVersion::V1).unwrap()], Permitted::default());
        assert!(lowered.faults.is_empty(), "{:?}", lowered.faults);
        let edits = normalise(&lowered.tree, 0, &Wrappers::gather(&lowered.tree));
        let content = lowered.tree.modules[0].text.content.clone();
        let modules: Vec<String> = split(&lowered.tree, 0, edits)
            .iter()
            .map(|(_, edits)| {
                let lines: Vec<String> =
                    apply(&content, edits).lines().map(|line| line.trim_end().to_owned()).collect();
                lines.join("\n")
            })
            .collect();
        assert_eq!(modules[0], "package a\nq := 1\n\np if data.a.not.foo(1) == 2\n");
        assert_eq!(
            modules[1],
            "package a.not\n\nfoo(x) := x + data.a.q if data.a.not.bar\n\nbar := data.a.q # c"
        );
    }
}
