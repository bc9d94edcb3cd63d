//! Files with one `CIDR  comment` a line; what stands behind `#` is shown in alerts and not read.

use super::{
    entry::{is_network, unpunctuated},
    list_file::ListFile,
    lists::{Listed, Said},
};
use crate::config::diagnostics::{Collector, Position};

/// The networks of such a file; wrong ones are reported and left out.
pub(crate) fn read(file: &ListFile, text: &str, faults: &mut Collector) -> Vec<Listed> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| listed(file, index + 1, line, faults)).collect()
}

fn listed(file: &ListFile, number: usize, line: &str, faults: &mut Collector) -> Option<Listed> {
    let said = line.split('#').next().unwrap_or_default();
    let mut words = said.split_whitespace();
    let cidr = words.next()?;
    let position = |word: &str| {
        let before = word.as_ptr() as usize - said.as_ptr() as usize;
        Position { line: number, column: said[..before].chars().count() + 1 }
    };
    if let Some(second) = second(cidr, words) {
        let first = unpunctuated(cidr);
        let expected = format!(
            "a second network, {second}, beside {first}: each needs a line of its own; in a comment it may stand behind #"
        );
        file.fault(position(second), Some(second), expected, faults);
        return None;
    }
    let mut listed = Said { cidr, ..Said::default() }.listed(file, position(cidr), faults)?;
    line.trim().clone_into(&mut listed.network.line);
    Some(listed)
}

/// A network further on in a line: an address only next to the first one, as comments name servers.
fn second<'a>(first: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if !is_network(unpunctuated(first)) {
        return None;
    }
    let mut words = words.map(unpunctuated).filter(|word| !word.is_empty()).enumerate();
    words.find(|(index, word)| is_network(word) && (*index == 0 || word.contains('/'))).map(|(_, word)| word)
}
