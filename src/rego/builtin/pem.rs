//! PEM blocks (RFC 7468) in a text, found as Go's `encoding/pem` finds them.

use super::encoding::base64;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One block: what it says it is, and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) label: String,
    pub(super) bytes: Vec<u8>,
}

/// The first well-formed block of a text, and the text after it.
pub(super) fn decode(text: &str) -> Option<(Block, &str)> {
    let mut rest = text;
    loop {
        let at = rest.find(BEGIN)?;
        let begins_line = at == 0 || rest.get(..at).is_some_and(|before| before.ends_with('\n'));
        let after = rest.get(at + BEGIN.len()..).unwrap_or_default();
        if begins_line && let Some(found) = block(after) {
            return Some(found);
        }
        rest = after;
    }
}

/// All blocks of a text.
pub(super) fn blocks(text: &str) -> impl Iterator<Item = Block> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (block, after) = decode(rest)?;
        rest = after;
        Some(block)
    })
}

fn block(text: &str) -> Option<(Block, &str)> {
    let (line, body) = text.split_once('\n')?;
    let label = line.trim_end().strip_suffix(DASHES)?;
    let end = format!("{END}{label}{DASHES}");
    let at = body.find(&end)?;
    let (body, rest) = body.split_at(at);
    // Headers such as `Proc-Type: 4,ENCRYPTED` come before an empty line.
    let body = match body.split_once("\n\n") {
        Some((headers, body)) if headers.contains(':') => body,
        Some(_) | None => body,
    };
    let digits: String = body.chars().filter(|character| !character.is_ascii_whitespace()).collect();
    let bytes = base64(&digits).ok()?;
    let rest = rest.get(end.len()..).unwrap_or_default();
    let rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    Some((Block { label: label.to_owned(), bytes }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn blocks_are_found_between_other_text() {
        let text = "x\n-----BEGIN A-----\naGk=\n-----END A-----\ny\n-----BEGIN B-----\nP: 1\n\naGk=\n-----END B-----";
        let found: Vec<(String, Vec<u8>)> = blocks(text).map(|block| (block.label, block.bytes)).collect();
        assert_eq!(found, [("A".to_owned(), b"hi".to_vec()), ("B".to_owned(), b"hi".to_vec())]);
        assert_eq!(decode("-----BEGIN A-----\naGk=\n-----END A-----\nrest").unwrap().1, "rest");
        for broken in [
            "-----BEGIN A-----\naGk=\n-----END B-----\n",
            "-----BEGIN A-----\n!\n-----END A-----",
            " -----BEGIN A",
        ] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(-----BEGIN A-----|\n|aGk=|-----END A-----|é|:){0,8}") {
            assert!(blocks(&text).count() <= 8);
        }
    }
}
