//! A policy text, its lines, and the column map between it and its rewritten forms.
//!
//! Rewriting never adds or removes a line, so a line number means the same in all of them.

use std::{ops::Range, sync::Arc};

use super::fault::Place;

/// One policy file as the parser reads it, which knows where that was written.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) path: Arc<str>,
    pub(crate) content: Arc<str>,
    line_starts: Arc<[usize]>,
    written: Arc<Written>,
}

/// The file as it was written, and what was changed for the parser.
#[derive(Debug)]
struct Written {
    content: Arc<str>,
    edits: Vec<Edit>,
}

impl Text {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self::edited(path, text, Vec::new())
    }

    /// A file with sorted, disjoint edits applied; places stay those of the file.
    pub(crate) fn edited(path: &str, text: &str, edits: Vec<Edit>) -> Self {
        let written: Arc<str> = text.into();
        let content = if edits.is_empty() { written.clone() } else { apply(text, &edits).into() };
        let line_starts =
            std::iter::once(0).chain(content.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self {
            path: path.into(),
            content,
            line_starts,
            written: Arc::new(Written { content: written, edits }),
        }
    }

    /// The place of a byte offset; an offset past the end is the end.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let offset = original_offset(&self.written.edits, offset);
        let before = self.written.content.get(..offset).unwrap_or(&self.written.content);
        let (lines, last) = before
            .rsplit_once('\n')
            .map_or((0, before), |(above, last)| (above.matches('\n').count() + 1, last));
        let column = narrow(last.chars().count() + 1);
        Place { file: self.path.clone(), line: narrow(lines + 1), column }
    }

    /// Line number (from 1) that holds a byte offset, and the offset where that line starts.
    pub(crate) fn line_of(&self, offset: usize) -> (u32, usize) {
        let index = self.line_starts.partition_point(|start| *start <= offset).saturating_sub(1);
        (narrow(index + 1), self.line_starts.get(index).copied().unwrap_or_default())
    }

    /// The place of the parser's line and column, which counts a tab as four columns.
    pub(crate) fn place_of_tabbed(&self, line: u32, tabbed_column: u32) -> Place {
        let start = self.line_starts.get((line as usize).saturating_sub(1)).copied().unwrap_or_default();
        let mut width = 1;
        let mut column = 1;
        for character in self.content.get(start..).unwrap_or_default().chars() {
            if width >= tabbed_column || character == '\n' {
                break;
            }
            width += if character == '\t' { 4 } else { 1 };
            column += 1;
        }
        let place = Place { file: self.path.clone(), line, column };
        match self.offset(&place) {
            Some(offset) if !self.written.edits.is_empty() => self.place(offset),
            Some(_) | None => place,
        }
    }

    /// The byte offset of a place, counted in the text as the parser reads it.
    pub(crate) fn offset(&self, place: &Place) -> Option<usize> {
        let start = *self.line_starts.get((place.line as usize).checked_sub(1)?)?;
        let line = self.content.get(start..)?;
        let within = line.char_indices().nth((place.column as usize).saturating_sub(1));
        Some(start + within.map_or(line.len(), |(at, _)| at))
    }

    /// The text of a byte range, or nothing where the range is not one.
    pub(crate) fn slice(&self, range: Range<usize>) -> &str {
        self.content.get(range).unwrap_or_default()
    }
}

fn narrow(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A replacement of a byte range of the original text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) range: Range<usize>,
    pub(crate) text: String,
    /// Where in the original text the replacement comes from.
    pub(crate) origin: usize,
}

/// Applies edits that are sorted by start and do not overlap.
pub(crate) fn apply(text: &str, edits: &[Edit]) -> String {
    let mut out = String::with_capacity(text.len() + edits.iter().map(|edit| edit.text.len()).sum::<usize>());
    let mut at = 0;
    for edit in edits {
        out.push_str(text.get(at..edit.range.start).unwrap_or_default());
        out.push_str(&edit.text);
        at = edit.range.end.max(at);
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

/// The original offset behind an offset of the rewritten text: the same character where it was
/// kept, the origin of the edit where it was not.
pub(crate) fn original_offset(edits: &[Edit], rewritten: usize) -> usize {
    let mut grown = 0;
    let mut shrunk = 0;
    for edit in edits {
        let start = edit.range.start + grown - shrunk;
        if rewritten < start {
            break;
        }
        if rewritten < start + edit.text.len() {
            return edit.origin;
        }
        grown += edit.text.len();
        shrunk += edit.range.len();
    }
    rewritten + shrunk - grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_the_parsers_tabs_as_one() {
        let text = Text::new("a.rego", "package a\n\tp := \"é\" + q\n");
        let place = text.place(text.content.find('q').unwrap());
        assert_eq!((place.line, place.column), (2, 13));
        assert_eq!(text.place_of_tabbed(2, 5).column, 2);
        assert_eq!(text.place(10_000).line, 3);
    }

    #[test]
    fn places_are_those_of_the_file_as_it_was_written() {
        let edits = vec![Edit { range: 10..13, text: "longer".into(), origin: 10 }];
        let text = Text::edited("a.rego", "package a\nnot.foo := x\n", edits);
        assert_eq!(&*text.content, "package a\nlonger.foo := x\n");
        let place = text.place(text.content.find('x').unwrap());
        assert_eq!((place.line, place.column), (2, 12));
        assert_eq!(text.place_of_tabbed(2, 15).column, 12);
    }

    #[test]
    fn offsets_survive_edits() {
        let edits = [
            Edit { range: 2..3, text: "long".into(), origin: 2 },
            Edit { range: 5..5, text: "++".into(), origin: 8 },
            Edit { range: 6..8, text: String::new(), origin: 6 },
        ];
        let text = "abcdefghij";
        let rewritten = apply(text, &edits);
        assert_eq!(rewritten, "ablongde++fij");
        for (at, character) in rewritten.char_indices() {
            let original = original_offset(&edits, at);
            let want = match character {
                'l' | 'o' | 'n' | 'g' if at < 6 => "c",
                '+' => "i",
                _ => &rewritten[at..=at],
            };
            assert_eq!(text.get(original..=original), Some(want), "at {at}");
        }
    }
}
