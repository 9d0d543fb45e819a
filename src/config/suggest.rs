//! "Did you mean": the name that a mistyped one stands for, most likely.

use similar::get_close_matches;

/// How alike two names must be, from 0 to 1.
const LIKENESS_MIN: f32 = 0.6;
/// Names that a message lists at most.
const LISTED_MAX: usize = 30;

/// A question about the name in `known` that looks most like `word`.
pub(crate) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let folded = known.iter().find(|name| name.eq_ignore_ascii_case(word)).copied();
    let close = || get_close_matches(word, &known, 1, LIKENESS_MIN).first().copied();
    folded.or_else(close).map(|name| format!("did you mean `{name}`?"))
}

/// Names in a sentence.
pub(crate) fn listed(names: &[impl AsRef<str>]) -> String {
    let mut out = String::new();
    for (index, name) in names.iter().enumerate() {
        if index == LISTED_MAX {
            out += " and others";
            break;
        }
        if index > 0 {
            out += ", ";
        }
        out += "`";
        out += name.as_ref();
        out += "`";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_suggested() {
        let known = ["listeners", "limits", "labels", "apis"];
        let suggest = |word| suggestion(word, known);
        assert_eq!(suggest("lisseners").as_deref(), Some("did you mean `listeners`?"));
        assert_eq!(suggest("label").as_deref(), Some("did you mean `labels`?"));
        assert_eq!(suggest("APIS").as_deref(), Some("did you mean `apis`?"));
        assert_eq!(suggest("upstreams"), None);
        assert_eq!(suggestion("x", []), None);
    }
}
