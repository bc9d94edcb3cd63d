//! Files with one `CIDR  comment` a line; `#` begins a comment that is nobody's evidence.

use super::{ListFile, Listed, Said};
use crate::config::fault::{Collector, Position};

/// The networks of such a file; wrong ones are reported and left out.
pub(super) fn read(file: &ListFile, text: &str, faults: &mut Collector) -> Vec<Listed> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, line)| listed(file, index + 1, line, faults)).collect()
}

fn listed(file: &ListFile, number: usize, line: &str, faults: &mut Collector) -> Option<Listed> {
    let said = line.split('#').next().unwrap_or_default();
    let cidr = said.split_whitespace().next()?;
    let indent = said.chars().take_while(|c| c.is_whitespace()).count();
    let position = Position { line: number, column: indent + 1 };
    let mut listed = Said { cidr, ..Said::default() }.listed(file, position, faults)?;
    line.trim().clone_into(&mut listed.network.line);
    Some(listed)
}
