//! EVE `flow` lines: what mailflow's own have in common with Suricata's.

use serde::Deserialize;

use super::{
    fast,
    line::{Flow, Word},
    mailflow, suricata,
};
use crate::offline::flowlog::{Line, Reading, Skipped, fault::Fault, json};

/// The line's kind alone.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    event_type: Option<Word<'a>>,
}

/// Reads one line.
pub(crate) fn read(line: &[u8], reading: &Reading<'_>) -> Result<Line, Fault> {
    if let Some(flow) = fast::read(line).filter(|flow| flow.event_type.0 == "flow") {
        return flow.line(line, reading);
    }
    // Lines of other kinds have fields of the same names and other forms.
    if memchr::memmem::find(line, b"\"event_type\":\"flow\"").is_none() {
        let kind: Kind<'_> = json::read(line)?;
        match kind.event_type.as_ref().map(|kind| &*kind.0) {
            Some("flow") => {}
            Some("netflow") => return Ok(Line::Skipped(Skipped::OneWay)),
            _ => return Ok(Line::Skipped(Skipped::OtherEvent)),
        }
    }
    let flow: Flow<'_> = json::read(line)?;
    if flow.event_type.0 != "flow" {
        return Ok(Line::Skipped(Skipped::OtherEvent));
    }
    flow.line(line, reading)
}

impl Flow<'_> {
    /// Returns its record, or the reason why it gives none.
    fn line(&self, line: &[u8], reading: &Reading<'_>) -> Result<Line, Fault> {
        let entry = match &self.mailflow {
            Some(extra) => mailflow::entry(self, extra, line, reading)?,
            None => suricata::entry(self, line, reading)?,
        };
        Ok(entry.map_or(Line::Skipped(Skipped::NotWatched), Line::Entry))
    }
}
