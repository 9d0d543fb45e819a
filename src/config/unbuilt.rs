//! Names what the format will hold but this version does not do yet, so that it is refused with a clear word, and
//! neither ignored nor taken for a typing error.

use crate::config::place::Place;
use crate::config::report::{At, Report};
use crate::config::yaml::{Data, Node};

/// One key or value that is not built. `*` in a path stands for any key or item.
struct Unbuilt {
    path: &'static [&'static str],
    /// The value, or the value's beginning; empty where the key itself is not built.
    values: &'static [&'static str],
    instead: &'static str,
}

const UNBUILT: &[Unbuilt] = &[
    Unbuilt { path: &["apis", "*", "openapi"], values: &[], instead: "list the `routes` here" },
    Unbuilt {
        path: &["limits", "store"],
        values: &["redis://", "rediss://"],
        instead: "use `memory`; each gateway then counts for itself",
    },
    Unbuilt {
        path: &["decision_logs", "*", "type"],
        values: &["opa"],
        instead: "use `stdout` or `file` and a log shipper",
    },
    Unbuilt { path: &["decision_logs", "*", "durability"], values: &[], instead: "take it out" },
    Unbuilt { path: &["decision_logs", "*", "chain"], values: &[], instead: "take it out" },
    Unbuilt {
        path: &["mask"],
        values: &[],
        instead: "take it out; credentials and cookies are never in an event",
    },
    Unbuilt { path: &["drop"], values: &[], instead: "take it out" },
    Unbuilt { path: &["telemetry", "traces"], values: &[], instead: "take it out" },
    Unbuilt {
        path: &["telemetry", "access_log"],
        values: &[],
        instead: "take it out; there is a decision event for each request",
    },
];

/// Notes and settles everything in the document that is not built. Where a value chooses what a mapping is, the whole
/// mapping is settled.
pub(super) fn check(root: &Node, report: &mut Report) {
    for unbuilt in UNBUILT {
        visit(root, unbuilt.path, &Place::root(), &mut |place, node, parent| {
            let Some(key) = unbuilt.path.last() else { return };
            if unbuilt.values.is_empty() {
                let message = format!("`{key}` is not built yet");
                let reported = report.error_with(At::Key(place.clone()), message, unbuilt.instead);
                report.discard(place.clone(), reported);
            } else if let Some(value) = chosen(node, unbuilt.values) {
                let message = format!("`{key}: {value}` is not built yet");
                let reported = report.error_with(place, message, unbuilt.instead);
                report.settle(if *key == "type" { parent.clone() } else { place.clone() }, reported);
            }
        });
    }
}

/// The value of the list that `node` is or begins with.
fn chosen(node: &Node, values: &[&'static str]) -> Option<&'static str> {
    let Data::Scalar(scalar) = &node.data else { return None };
    let text = scalar.value.as_str()?;
    values
        .iter()
        .copied()
        .find(|value| if value.ends_with("://") { text.starts_with(value) } else { text == *value })
}

fn visit(node: &Node, path: &[&str], place: &Place, found: &mut dyn FnMut(&Place, &Node, &Place)) {
    let Some((step, rest)) = path.split_first() else { return };
    let mut enter = |child: &Node, at: Place| {
        if rest.is_empty() { found(&at, child, place) } else { visit(child, rest, &at, found) }
    };
    match &node.data {
        Data::Mapping(entries) => entries
            .iter()
            .filter(|entry| *step == "*" || entry.key == *step)
            .for_each(|entry| enter(&entry.value, place.key(&entry.key))),
        Data::Sequence(items) if *step == "*" => {
            items.iter().enumerate().for_each(|(index, item)| enter(item, place.index(index)));
        }
        Data::Sequence(_) | Data::Scalar(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_knows_nothing_of_it() {
        let schema = crate::config::schema().to_string();
        for unbuilt in UNBUILT {
            let key = unbuilt.path.last().unwrap();
            if unbuilt.values.is_empty() {
                assert!(!schema.contains(&format!("\"{key}\":")), "{key}");
            }
            for value in unbuilt.values {
                assert!(!schema.contains(&format!("\"{value}")), "{value}");
            }
        }
    }
}
