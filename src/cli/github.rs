//! Annotations of GitHub workflows: lines on standard output that GitHub shows beside the line they speak of.
//! <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>

/// What an annotation speaks of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) file: &'a str,
    /// From 1; 0 is the file as a whole.
    pub(crate) line: u32,
    /// From 1.
    pub(crate) column: u32,
}

/// The command for one annotation; `level` is `error`, `warning` or `notice`.
pub(crate) fn annotation(level: &str, at: At<'_>, title: &str, message: &str) -> String {
    // GitHub compares with paths from the root of the repository, which have no `./`.
    let file = property(at.file.strip_prefix("./").unwrap_or(at.file));
    let place = if at.line == 0 { String::new() } else { format!(",line={},col={}", at.line, at.column) };
    format!("::{level} file={file}{place},title={}::{}", property(title), data(message))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_part_is_escaped() {
        let at = At { file: "./a,b.rego", line: 3, column: 1 };
        assert_eq!(
            annotation("error", at, "data.a: x", "100 %\nno"),
            "::error file=a%2Cb.rego,line=3,col=1,title=data.a%3A x::100 %25%0Ano"
        );
        let whole = At { file: "p.rego", line: 0, column: 1 };
        assert_eq!(annotation("warning", whole, "t", "m"), "::warning file=p.rego,title=t::m");
    }
}
