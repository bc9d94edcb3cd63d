//! Zeek's conn.log in columns, with its header.

use std::borrow::Cow;

use super::{
    conn::{self, ZeekConn, ZeekService},
    fields::ZeekField,
    names::{self, RenamedColumn},
};
use crate::offline::flowlog::{
    LineOutcome, ReadContext, SkipReason,
    error::LineError,
    eve::line::CowStr,
    text::{Parsed, TextValue, describe_mismatch},
};

/// Header lines so far. A concatenated log has several headers.
#[derive(Clone, Debug)]
pub(crate) struct ZeekColumns {
    separator: String,
    unset: String,
    empty: String,
    /// Separator of the members of a set.
    set_separator: String,
    path: Option<String>,
    /// True while the lines are of another log than one of connections.
    other_log: bool,
    /// True once connections were read. After that, another log is only a part to skip.
    has_connections: bool,
    names: Vec<String>,
    /// Index of the column of each of [`ZeekField::ALL`].
    column_indexes: [Option<usize>; ZeekField::ALL.len()],
}

impl Default for ZeekColumns {
    fn default() -> Self {
        Self {
            separator: "\t".to_owned(),
            unset: "-".to_owned(),
            empty: "(empty)".to_owned(),
            set_separator: ",".to_owned(),
            path: None,
            other_log: false,
            has_connections: false,
            names: Vec::new(),
            column_indexes: [None; ZeekField::ALL.len()],
        }
    }
}

impl ZeekColumns {
    /// Reads a header line (`#...`). An error is a description of a log that has no connections with their
    /// endpoints.
    pub(crate) fn header(&mut self, line: &str, renamed: &[RenamedColumn]) -> Result<(), String> {
        if let Some(separator) = line.strip_prefix("#separator ") {
            *self = Self {
                separator: unescape(separator),
                has_connections: self.has_connections,
                ..Self::default()
            };
            return Ok(());
        }
        let Some((name, value)) = line.split_once(self.separator.as_str()) else { return Ok(()) };
        match name {
            "#unset_field" => self.unset = value.to_owned(),
            "#set_separator" if !value.is_empty() => self.set_separator = unescape(value),
            "#empty_field" => self.empty = value.to_owned(),
            "#path" if conn::open_state(value).is_none() => {
                // A concatenated log may contain logs of several types.
                if !self.has_connections {
                    return Err(format!("Zeek's {value}.log"));
                }
                self.other_log = true;
            }
            "#path" => {
                self.other_log = false;
                self.path = Some(value.to_owned());
            }
            "#fields" if self.other_log => {}
            "#fields" => {
                self.names = value.split(self.separator.as_str()).map(str::to_owned).collect();
                let names = self.names.iter().map(String::as_str);
                self.column_indexes =
                    ZeekField::ALL.map(|(_, name)| names::column_index(name, renamed, names.clone()));
                let mut required = ZeekField::ALL.iter().zip(&self.column_indexes).take(ZeekField::REQUIRED);
                if let Some(((_, name), _)) = required.find(|(_, index)| index.is_none()) {
                    return Err(format!("a Zeek log without the column {name}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns true once connections were read.
    pub(crate) fn has_connections(&self) -> bool {
        self.has_connections
    }

    /// Notes that a line of values was read, by this thread or another.
    pub(crate) fn note_values(&mut self) {
        self.has_connections |= !self.other_log;
    }

    /// Reads a line of values.
    pub(crate) fn read(&mut self, line: &str, context: &ReadContext<'_>) -> Result<LineOutcome, LineError> {
        if self.other_log {
            return Ok(LineOutcome::Skipped(SkipReason::OtherEvent));
        }
        self.note_values();
        let values: Vec<&str> = line.split(self.separator.as_str()).collect();
        if self.names.is_empty() {
            return Err(LineError::new(1, "", "values before the `#fields` line, which names their columns"));
        }
        if values.len() != self.names.len() {
            let found = format!("{} columns: expected {}", values.len(), self.names.len());
            return Err(LineError::new(1, "", found));
        }
        let row = ZeekRow { columns: self, values: &values };
        let conn = ZeekConn {
            ts: row.required(ZeekField::Ts)?,
            orig_h: row.required(ZeekField::OrigH)?,
            orig_p: row.required(ZeekField::OrigP)?.0,
            resp_h: row.required(ZeekField::RespH)?,
            resp_p: row.required(ZeekField::RespP)?.0,
            proto: row.required(ZeekField::LogProtocol)?,
            service: row.text(ZeekField::Service).map_or(ZeekService::Unknown, |names| self.service(names)),
            duration: row.value(ZeekField::Duration)?,
            conn_state: row.text(ZeekField::ConnState).map(|state| CowStr(Cow::Borrowed(state))),
            history: row.text(ZeekField::History).map(|history| CowStr(Cow::Borrowed(history))),
            missed_bytes: row.number(ZeekField::MissedBytes)?,
            orig_bytes: row.number(ZeekField::OrigBytes)?,
            orig_pkts: row.number(ZeekField::OrigPkts)?,
            orig_ip_bytes: row.number(ZeekField::OrigIpBytes)?,
            resp_bytes: row.number(ZeekField::RespBytes)?,
            resp_pkts: row.number(ZeekField::RespPkts)?,
            resp_ip_bytes: row.number(ZeekField::RespIpBytes)?,
            vlan: row.value(ZeekField::Vlan)?.map(|Parsed(tag)| tag),
            inner_vlan: row.value(ZeekField::InnerVlan)?.map(|Parsed(tag)| tag),
            orig_l2_addr: row.value(ZeekField::OrigL2Addr)?,
            open: self.path.as_deref().and_then(conn::open_state).unwrap_or_default(),
        };
        Ok(conn.outcome(context))
    }

    fn service<'a>(&self, names: &'a str) -> ZeekService<'a> {
        let names = names.split(self.set_separator.as_str());
        ZeekService::List(names.map(|name| CowStr(Cow::Borrowed(name))).collect())
    }
}

/// Line of values.
struct ZeekRow<'a> {
    columns: &'a ZeekColumns,
    values: &'a [&'a str],
}

impl<'a> ZeekRow<'a> {
    /// Returns the text of a value; `None` if it is unset, or if there is no such column.
    fn text(&self, field: ZeekField) -> Option<&'a str> {
        let index = self.columns.column_indexes[field as usize]?;
        let text = *self.values.get(index)?;
        (text != self.columns.unset && text != self.columns.empty).then_some(text)
    }

    fn value<T: TextValue>(&self, field: ZeekField) -> Result<Option<Parsed<T>>, LineError> {
        let Some(text) = self.text(field) else { return Ok(None) };
        T::parse(text).map(|value| Some(Parsed(value))).ok_or_else(|| self.error(field, text, T::EXPECTED))
    }

    fn number(&self, field: ZeekField) -> Result<Option<u64>, LineError> {
        Ok(self.value(field)?.map(|Parsed(number)| number))
    }

    fn required<T: TextValue>(&self, field: ZeekField) -> Result<Parsed<T>, LineError> {
        self.value(field)?.ok_or_else(|| self.error(field, &self.columns.unset, T::EXPECTED))
    }

    fn error(&self, field: ZeekField, value: &str, expected: &str) -> LineError {
        let index = self.columns.column_indexes[field as usize].unwrap_or_default();
        let separators = index * self.columns.separator.len();
        let column = self.values[..index].iter().map(|value| value.len()).sum::<usize>() + separators + 1;
        LineError::new(column, ZeekField::ALL[field as usize].1, describe_mismatch(value, expected))
    }
}

impl TextValue for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl TextValue for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Decodes the form `\x09` in which Zeek writes separators.
fn unescape(text: &str) -> String {
    let mut pieces = text.split("\\x");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => plain.extend([char::from(code)].into_iter().chain(piece.chars().skip(2))),
            None => plain.extend(["\\x", piece]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_in_the_order_of_their_numbers() {
        for (number, (field, _)) in ZeekField::ALL.iter().enumerate() {
            assert_eq!(*field as usize, number);
        }
    }

    #[test]
    fn separators_are_unescaped() {
        assert_eq!([unescape("\\x09"), unescape("|"), unescape("\\x7c\\x7C")], ["\t", "|", "||"]);
        assert_eq!(unescape("\\xzz"), "\\xzz");
    }
}
