//! Log lines in envelopes: lines that Filebeat, Elasticsearch or container runtimes put into lines of their
//! own.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    error::LineError,
    json,
    zeek::names::{self, RenamedColumn},
};

/// Largest nesting of lines, such as Elasticsearch's around Filebeat's around the line itself.
const MAX_NESTING: usize = 4;

/// Format of a line of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFormat {
    /// An EVE event.
    Eve,
    /// A connection of Zeek.
    Zeek,
}

impl LineFormat {
    /// Returns the format of a line; `None` for another format, or if the line is no JSON.
    pub(crate) fn of(line: &[u8], renamed: &[RenamedColumn]) -> Option<Self> {
        let line: Map<String, Value> = serde_json::from_slice(line).ok()?;
        if line.contains_key("event_type") {
            return Some(Self::Eve);
        }
        names::is_zeek_conn(&line, renamed).then_some(Self::Zeek)
    }
}

/// Fields of envelopes that hold a line: `_source` (Elasticsearch), `message`, `event.original`,
/// `suricata.eve` and `json` (Filebeat), `log` (containers), `data` (Wazuh), `result._raw` (Splunk).
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "_source")]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    suricata: Option<&'a RawValue>,
    #[serde(borrow)]
    eve: Option<&'a RawValue>,
    #[serde(borrow)]
    json: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    original: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    log: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow, rename = "_raw")]
    raw: Option<&'a RawValue>,
}

/// Line that was found in an envelope.
pub(crate) struct InnerLine<'a> {
    pub(crate) line: Cow<'a, [u8]>,
    pub(crate) kind: LineFormat,
    /// Offset of the line in the envelope.
    at: usize,
}

impl InnerLine<'_> {
    /// Converts an error of the inner line to one of the outer line. If the inner line is an escaped string,
    /// its columns do not exist in the file, so the column is that of the string.
    pub(crate) fn to_outer_error(&self, error: LineError) -> LineError {
        let column = match self.line {
            Cow::Borrowed(_) => self.at + error.column,
            Cow::Owned(_) => self.at + 1,
        };
        LineError { column, ..error }
    }
}

/// Returns the flow line in `line`, if there is one.
///
/// # Errors
/// Fails if `line` is no JSON.
pub(crate) fn inner<'a>(
    line: &'a [u8],
    renamed: &[RenamedColumn],
) -> Result<Option<InnerLine<'a>>, LineError> {
    let whole: &RawValue = json::read(line)?;
    Ok(search(whole, whole.get().as_ptr() as usize - line.as_ptr() as usize, renamed, MAX_NESTING))
}

fn search<'a>(
    value: &'a RawValue,
    at: usize,
    renamed: &[RenamedColumn],
    depth: usize,
) -> Option<InnerLine<'a>> {
    let text = value.get();
    if text.starts_with('"') {
        let text: Cow<'_, str> = serde_json::from_str(text).map(Cow::Owned).ok()?;
        let line = text.trim().as_bytes();
        if !line.starts_with(b"{") {
            return None;
        }
        if let Some(kind) = LineFormat::of(line, renamed) {
            return Some(InnerLine { line: Cow::Owned(line.to_vec()), kind, at });
        }
        let nested = serde_json::from_slice::<Box<RawValue>>(line).ok()?;
        let InnerLine { line, kind, .. } = search(&nested, 0, renamed, depth.checked_sub(1)?)?;
        return Some(InnerLine { line: Cow::Owned(line.into_owned()), kind, at });
    }
    if !text.starts_with('{') {
        return None;
    }
    if let Some(kind) = LineFormat::of(text.as_bytes(), renamed) {
        return Some(InnerLine { line: Cow::Borrowed(text.as_bytes()), kind, at });
    }
    let depth = depth.checked_sub(1)?;
    let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
    let Envelope { source, suricata, eve, json, event, original, message, log, data, result, raw } = envelope;
    let all = [source, suricata, eve, json, event, original, message, log, data, result, raw];
    all.into_iter().flatten().find_map(|value| {
        let offset = value.get().as_ptr() as usize - text.as_ptr() as usize;
        search(value, at + offset, renamed, depth)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<(LineFormat, String)> {
        let inner = inner(line.as_bytes(), &[]).unwrap()?;
        Some((inner.kind, String::from_utf8(inner.line.into_owned()).unwrap()))
    }

    #[test]
    fn lines_are_found_in_envelopes() {
        let eve = r#"{"event_type":"flow","src_ip":"10.0.0.1"}"#;
        let text = serde_json::to_string(eve).unwrap();
        for line in [
            eve.to_owned(),
            format!(r#"{{"@timestamp":"x","message":{text}}}"#),
            format!(r#"{{"message":"hello","suricata":{{"eve":{eve}}}}}"#),
            format!(r#"{{"json":{eve}}}"#),
            format!(r#"{{"event":{{"kind":"event","original":{text}}}}}"#),
            format!(r#"{{"_index":"a","_source":{{"message":{text}}}}}"#),
            format!(r#" {{"_source":{{"suricata":{{"eve":{eve}}}}}}}"#),
            format!(r#"{{"log":{text},"stream":"stdout"}}"#),
            format!(r#"{{"agent":{{"id":"000"}},"data":{eve}}}"#),
            format!(r#"{{"preview":false,"result":{{"_raw":{text}}}}}"#),
        ] {
            assert_eq!(found(&line), Some((LineFormat::Eve, eve.to_owned())), "{line}");
        }
        let zeek = r#"{"ts":1,"id":{"orig_h":"10.0.0.1"}}"#;
        assert_eq!(found(&format!(r#"{{"_source":{zeek}}}"#)), Some((LineFormat::Zeek, zeek.to_owned())));
        for line in [r#"{"message":"hello"}"#, r#"{"message":"{\"a\":1}"}"#, "{}", "[]", "7"] {
            assert_eq!(found(line), None, "{line}");
        }
        let deep = (0..MAX_NESTING + 1).fold(eve.to_owned(), |line, _| format!(r#"{{"json":{line}}}"#));
        assert_eq!(found(&deep), None, "not without end");
    }
}
