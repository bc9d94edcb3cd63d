//! Reads network lists with one `CIDR  comment` a line. Text after `#` is shown in alerts, but not parsed.

use super::{
    entry::{is_network, unpunctuated},
    list_file::ListFile,
    lists::{NetworkEntry, RawNetwork},
};
use crate::config::diagnostics::{DiagnosticSink, Position};

/// Returns the networks of a list. Invalid lines are reported and skipped.
pub(crate) fn read(file: &ListFile, text: &str, diagnostics: &mut DiagnosticSink) -> Vec<NetworkEntry> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| listed(file, index + 1, line, diagnostics)).collect()
}

fn listed(
    file: &ListFile,
    number: usize,
    line: &str,
    diagnostics: &mut DiagnosticSink,
) -> Option<NetworkEntry> {
    let content = line.split('#').next().unwrap_or_default();
    let mut words = content.split_whitespace();
    let cidr = words.next()?;
    let position = |word: &str| {
        let before = word.as_ptr() as usize - content.as_ptr() as usize;
        Position { line: number, column: content[..before].chars().count() + 1 }
    };
    if let Some(second) = second(cidr, words) {
        let first = unpunctuated(cidr);
        let expected = format!(
            "a second network, {second}, after {first}: put each network on a line of its own, or put this one behind # as a comment"
        );
        file.report(position(second), Some(second), expected, diagnostics);
        return None;
    }
    let mut listed =
        RawNetwork { cidr, ..RawNetwork::default() }.into_entry(file, position(cidr), diagnostics)?;
    line.trim().clone_into(&mut listed.network.line);
    Some(listed)
}

/// Returns a second network of a line. An address counts only directly after the first network, as comments
/// may name servers.
fn second<'a>(first: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if !is_network(unpunctuated(first)) {
        return None;
    }
    let mut words = words.map(unpunctuated).filter(|word| !word.is_empty()).enumerate();
    words.find(|(index, word)| is_network(word) && (*index == 0 || word.contains('/'))).map(|(_, word)| word)
}
