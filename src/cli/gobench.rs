//! Figures as `go test -bench` prints them, which `benchstat` compares.

/// The name of a benchmark of `written`, such as `data.gateway.decision`.
pub(super) fn name(written: &str) -> String {
    let words = written.split(|character: char| !character.is_alphanumeric()).map(capitalised);
    ["Benchmark".to_owned()].into_iter().chain(words).collect()
}

fn capitalised(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().into_iter().flat_map(char::to_uppercase).chain(characters).collect()
}

/// Evaluations, and nanoseconds for each.
pub(super) fn figures(iterations: u64, nanos: f64) -> String {
    let decimals = match nanos {
        nanos if nanos >= 100.0 => 0,
        nanos if nanos >= 10.0 => 1,
        _ => 2,
    };
    format!("{iterations:>8}\t{nanos:>10.decimals$} ns/op")
}
