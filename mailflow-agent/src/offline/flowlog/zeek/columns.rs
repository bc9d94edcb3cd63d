//! Zeek's conn.log as columns, with its header.

use std::borrow::Cow;

use super::{
    conn::{self, Conn, Service},
    fields::Field,
    names::{self, Renamed},
};
use crate::offline::flowlog::{
    Line, Reading, Skipped,
    eve::line::Word,
    fault::Fault,
    text::{Read, Text, refused},
};

/// What the header says so far. Logs that were put together have more than one.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    separator: String,
    unset: String,
    empty: String,
    /// What stands between the members of a set.
    members: String,
    path: Option<String>,
    /// Set while the lines are of a log of something else.
    foreign: bool,
    /// Connections have been read, so that only a part is of something else.
    began: bool,
    names: Vec<String>,
    /// The place of each of [`Field::ALL`] among the columns.
    places: [Option<usize>; Field::ALL.len()],
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            separator: "\t".to_owned(),
            unset: "-".to_owned(),
            empty: "(empty)".to_owned(),
            members: ",".to_owned(),
            path: None,
            foreign: false,
            began: false,
            names: Vec::new(),
            places: [None; Field::ALL.len()],
        }
    }
}

impl Columns {
    /// Reads a line of the header (`#...`). An error is one of the whole log: what it is instead of
    /// connections with their ends.
    pub(crate) fn header(&mut self, line: &str, renamed: &[Renamed]) -> Result<(), String> {
        if let Some(separator) = line.strip_prefix("#separator ") {
            *self = Self { separator: unescaped(separator), began: self.began, ..Self::default() };
            return Ok(());
        }
        let Some((name, value)) = line.split_once(self.separator.as_str()) else { return Ok(()) };
        match name {
            "#unset_field" => self.unset = value.to_owned(),
            "#set_separator" if !value.is_empty() => self.members = unescaped(value),
            "#empty_field" => self.empty = value.to_owned(),
            "#path" if conn::is_open(value).is_none() => {
                // Logs that were put together may be of several kinds.
                if !self.began {
                    return Err(format!("Zeek's {value}.log"));
                }
                self.foreign = true;
            }
            "#path" => {
                self.foreign = false;
                self.path = Some(value.to_owned());
            }
            "#fields" if self.foreign => {}
            "#fields" => {
                self.names = value.split(self.separator.as_str()).map(str::to_owned).collect();
                let names = self.names.iter().map(String::as_str);
                self.places = Field::ALL.map(|(_, name)| names::place(name, renamed, names.clone()));
                let mut needed = Field::ALL.iter().zip(&self.places).take(Field::NEEDED);
                if let Some(((_, name), _)) = needed.find(|(_, place)| place.is_none()) {
                    return Err(format!("a Zeek log without the column {name}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns true once connections have been read.
    pub(crate) fn has_begun(&self) -> bool {
        self.began
    }

    /// A line of values was read, here or by another.
    pub(crate) fn begin(&mut self) {
        self.began |= !self.foreign;
    }

    /// Reads a line of values.
    pub(crate) fn read(&mut self, line: &str, reading: &Reading<'_>) -> Result<Line, Fault> {
        if self.foreign {
            return Ok(Line::Skipped(Skipped::OtherEvent));
        }
        self.begin();
        let values: Vec<&str> = line.split(self.separator.as_str()).collect();
        if self.names.is_empty() {
            return Err(Fault::new(1, "", "values before the `#fields` line, which names their columns"));
        }
        if values.len() != self.names.len() {
            let found = format!("{} columns: expected {}", values.len(), self.names.len());
            return Err(Fault::new(1, "", found));
        }
        let row = Row { columns: self, values: &values };
        let conn = Conn {
            ts: row.needed(Field::Ts)?,
            orig_h: row.needed(Field::OrigH)?,
            orig_p: row.needed(Field::OrigP)?.0,
            resp_h: row.needed(Field::RespH)?,
            resp_p: row.needed(Field::RespP)?.0,
            proto: row.needed(Field::Proto)?,
            service: row.text(Field::Service).map_or(Service::Unknown, |names| self.service(names)),
            duration: row.value(Field::Duration)?,
            conn_state: row.text(Field::ConnState).map(|state| Word(Cow::Borrowed(state))),
            history: row.text(Field::History).map(|history| Word(Cow::Borrowed(history))),
            missed_bytes: row.number(Field::MissedBytes)?,
            orig_bytes: row.number(Field::OrigBytes)?,
            orig_pkts: row.number(Field::OrigPkts)?,
            orig_ip_bytes: row.number(Field::OrigIpBytes)?,
            resp_bytes: row.number(Field::RespBytes)?,
            resp_pkts: row.number(Field::RespPkts)?,
            resp_ip_bytes: row.number(Field::RespIpBytes)?,
            vlan: row.value(Field::Vlan)?.map(|Read(tag)| tag),
            inner_vlan: row.value(Field::InnerVlan)?.map(|Read(tag)| tag),
            orig_l2_addr: row.value(Field::OrigL2Addr)?,
            open: self.path.as_deref().and_then(conn::is_open).unwrap_or_default(),
        };
        Ok(conn.line(reading))
    }

    fn service<'a>(&self, names: &'a str) -> Service<'a> {
        let names = names.split(self.members.as_str());
        Service::List(names.map(|name| Word(Cow::Borrowed(name))).collect())
    }
}

/// A line of values.
struct Row<'a> {
    columns: &'a Columns,
    values: &'a [&'a str],
}

impl<'a> Row<'a> {
    /// A value as it is written; `None` where it is unset or there is no such column.
    fn text(&self, field: Field) -> Option<&'a str> {
        let place = self.columns.places[field as usize]?;
        let text = *self.values.get(place)?;
        (text != self.columns.unset && text != self.columns.empty).then_some(text)
    }

    fn value<T: Text>(&self, field: Field) -> Result<Option<Read<T>>, Fault> {
        let Some(text) = self.text(field) else { return Ok(None) };
        T::read(text).map(|value| Some(Read(value))).ok_or_else(|| self.fault(field, text, T::EXPECTED))
    }

    fn number(&self, field: Field) -> Result<Option<u64>, Fault> {
        Ok(self.value(field)?.map(|Read(number)| number))
    }

    fn needed<T: Text>(&self, field: Field) -> Result<Read<T>, Fault> {
        self.value(field)?.ok_or_else(|| self.fault(field, &self.columns.unset, T::EXPECTED))
    }

    fn fault(&self, field: Field, value: &str, expected: &str) -> Fault {
        let place = self.columns.places[field as usize].unwrap_or_default();
        let separators = place * self.columns.separator.len();
        let column = self.values[..place].iter().map(|value| value.len()).sum::<usize>() + separators + 1;
        Fault::new(column, Field::ALL[field as usize].1, refused(value, expected))
    }
}

impl Text for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Text for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// `\x09` as Zeek writes its separator.
fn unescaped(text: &str) -> String {
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
        for (number, (field, _)) in Field::ALL.iter().enumerate() {
            assert_eq!(*field as usize, number);
        }
    }

    #[test]
    fn separators_are_unescaped() {
        assert_eq!([unescaped("\\x09"), unescaped("|"), unescaped("\\x7c\\x7C")], ["\t", "|", "||"]);
        assert_eq!(unescaped("\\xzz"), "\\xzz");
    }
}
