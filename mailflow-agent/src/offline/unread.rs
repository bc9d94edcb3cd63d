//! Lines of a flow log that were not read: one log line for each reason, with a count.

use std::path::Path;

use tracing::{error, warn};

use super::flowlog::Fault;

/// Most reasons with a count of their own in one log.
const MAX_REASONS: usize = 20;

/// Counts of the lines of one log that were not read.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    reasons: Vec<Reason>,
    /// Lines of further reasons.
    others: u64,
    /// Events that hold one direction each.
    pub(crate) one_way: u64,
}

/// Lines that cannot be read, and why.
#[derive(Debug)]
struct Reason {
    /// In words, without the values.
    what: String,
    key: String,
    lines: u64,
}

impl Unread {
    /// Counts a line that cannot be read. Returns true if it is to be shown, as the first of its reason.
    pub(crate) fn is_first_of_its_reason(&mut self, fault: &Fault) -> bool {
        let what = reason(fault);
        // Numbers in it are those of one line.
        let key: String = what.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let key = squeezed(&key);
        let room = self.reasons.len() < MAX_REASONS;
        match self.reasons.iter_mut().find(|reason| reason.key == key) {
            Some(reason) => reason.lines += 1,
            None if room => {
                self.reasons.push(Reason { what, key, lines: 1 });
                return true;
            }
            None => self.others += 1,
        }
        false
    }

    /// Logs how many lines were not read, by reason.
    pub(crate) fn report(&self, path: &Path) {
        let path = path.display();
        for Reason { what, lines, .. } in self.reasons.iter().filter(|reason| reason.lines > 1) {
            error!("{path}: {} more lines could not be read: {what}", lines - 1);
        }
        if self.others > 0 {
            error!("{path}: {} more lines could not be read, for other reasons", self.others);
        }
        if self.one_way > 0 {
            warn!(
                "{path}: {} netflow events are not read, as each holds one direction: let Suricata log flow events",
                self.one_way
            );
        }
    }
}

/// A fault without the value that it is about.
fn reason(fault: &Fault) -> String {
    let what = fault.what.find("expected ").map_or(fault.what.as_str(), |at| &fault.what[at..]);
    if fault.field.is_empty() { what.to_owned() } else { format!("{}: {what}", fault.field) }
}

/// Zeros in a row as one.
fn squeezed(text: &str) -> String {
    let mut squeezed = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '0' || !squeezed.ends_with('0') {
            squeezed.push(c);
        }
    }
    squeezed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(field: &str, what: &str) -> Fault {
        Fault { column: 1, field: field.to_owned(), what: what.to_owned() }
    }

    #[test]
    fn a_reason_is_shown_once_whatever_the_values() {
        let mut unread = Unread::default();
        for number in 0..1_000 {
            let ip = fault("src_ip", &format!("\"10.0.0.{number}\": expected an IP address"));
            let short = format!("\"{number}\": expected at least 14 a packet, of which there are {number}");
            let short = fault("flow.bytes_toserver", &short);
            assert_eq!(unread.is_first_of_its_reason(&ip), number == 0);
            assert_eq!(unread.is_first_of_its_reason(&short), number == 0);
        }
        assert!(unread.is_first_of_its_reason(&fault("dest_ip", "\"x\": expected an IP address")));
        let lines: Vec<_> =
            unread.reasons.iter().map(|reason| (reason.what.as_str(), reason.lines)).collect();
        assert_eq!(lines[0], ("src_ip: expected an IP address", 1_000));
        assert_eq!(lines[1].1, 1_000);
        assert_eq!(lines.len(), 3);
        for number in 0..100 {
            unread.is_first_of_its_reason(&fault("", &"x".repeat(number + 1)));
        }
        assert_eq!((unread.reasons.len(), unread.others), (MAX_REASONS, 100 - (MAX_REASONS as u64 - 3)));
    }
}
