//! Reader of EVE lines, for mailflow's own and Suricata's.

use serde::Deserialize;

use super::{
    fast,
    line::{CowStr, EveFlowLine},
    mailflow, suricata,
};
use crate::offline::flowlog::{LineOutcome, ReadContext, SkipReason, error::LineError, json};

/// Event type of a line, without its other fields.
#[derive(Deserialize)]
struct EventType<'a> {
    #[serde(borrow)]
    event_type: Option<CowStr<'a>>,
}

/// Reads one line.
pub(crate) fn read(line: &[u8], context: &ReadContext<'_>) -> Result<LineOutcome, LineError> {
    if let Some(flow) = fast::read(line).filter(|flow| flow.event_type.0 == "flow") {
        return flow.outcome(line, context);
    }
    // Other event types have fields of the same names with other types.
    if memchr::memmem::find(line, b"\"event_type\":\"flow\"").is_none() {
        let kind: EventType<'_> = json::read(line)?;
        match kind.event_type.as_ref().map(|kind| &*kind.0) {
            Some("flow") => {}
            Some("netflow") => return Ok(LineOutcome::Skipped(SkipReason::OneWay)),
            _ => return Ok(LineOutcome::Skipped(SkipReason::OtherEvent)),
        }
    }
    let flow: EveFlowLine<'_> = json::read(line)?;
    if flow.event_type.0 != "flow" {
        return Ok(LineOutcome::Skipped(SkipReason::OtherEvent));
    }
    flow.outcome(line, context)
}

impl EveFlowLine<'_> {
    /// Returns the record of the line, or the reason why it is skipped.
    fn outcome(&self, line: &[u8], context: &ReadContext<'_>) -> Result<LineOutcome, LineError> {
        let record = match &self.mailflow {
            Some(extra) => mailflow::record(self, extra, line, context)?,
            None => suricata::record(self, line, context)?,
        };
        Ok(record.map_or(LineOutcome::Skipped(SkipReason::NotWatched), LineOutcome::Record))
    }
}
