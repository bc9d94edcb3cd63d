//! Lines of a flow log that were not read: one log line for each reason, with a count.

use std::path::Path;

use tracing::{error, warn};

use super::flowlog::LineError;

/// Most reasons with a count of their own in one log.
const MAX_REASONS: usize = 20;

/// Counts of the lines of one log that were not read.
#[derive(Debug, Default)]
pub(crate) struct UnreadLines {
    reasons: Vec<UnreadReason>,
    /// Lines of further reasons.
    further_lines: u64,
    /// Events that hold one direction each.
    pub(crate) one_way: u64,
}

/// Lines that cannot be read, and why.
#[derive(Debug)]
struct UnreadReason {
    /// In words, without the values.
    text: String,
    key: String,
    lines: u64,
}

impl UnreadLines {
    /// Counts a line that cannot be read. Returns true if it is to be shown, as the first of its reason.
    pub(crate) fn count_fault(&mut self, error: &LineError) -> bool {
        let text = fault_text(error);
        // Numbers in it are those of one line.
        let key: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let key = squeeze_zeros(&key);
        let room = self.reasons.len() < MAX_REASONS;
        match self.reasons.iter_mut().find(|reason| reason.key == key) {
            Some(reason) => reason.lines += 1,
            None if room => {
                self.reasons.push(UnreadReason { text, key, lines: 1 });
                return true;
            }
            None => self.further_lines += 1,
        }
        false
    }

    /// Logs how many lines were not read, by reason.
    pub(crate) fn report(&self, path: &Path) {
        let path = path.display();
        for UnreadReason { text, lines, .. } in self.reasons.iter().filter(|reason| reason.lines > 1) {
            error!("{path}: {} more lines could not be read: {text}", lines - 1);
        }
        if self.further_lines > 0 {
            error!("{path}: {} more lines could not be read, for other reasons", self.further_lines);
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
fn fault_text(error: &LineError) -> String {
    let text = error.what.find("expected ").map_or(error.what.as_str(), |at| &error.what[at..]);
    if error.field.is_empty() { text.to_owned() } else { format!("{}: {text}", error.field) }
}

/// Zeros in a row as one.
fn squeeze_zeros(text: &str) -> String {
    let mut squeeze_zeros = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '0' || !squeeze_zeros.ends_with('0') {
            squeeze_zeros.push(c);
        }
    }
    squeeze_zeros
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(field: &str, text: &str) -> LineError {
        LineError { column: 1, field: field.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_reason_is_shown_once_whatever_the_values() {
        let mut unread = UnreadLines::default();
        for number in 0..1_000 {
            let ip = error("src_ip", &format!("\"10.0.0.{number}\": expected an IP address"));
            let short = format!("\"{number}\": expected at least 14 a packet, of which there are {number}");
            let short = error("flow.bytes_toserver", &short);
            assert_eq!(unread.count_fault(&ip), number == 0);
            assert_eq!(unread.count_fault(&short), number == 0);
        }
        assert!(unread.count_fault(&error("dest_ip", "\"x\": expected an IP address")));
        let lines: Vec<_> =
            unread.reasons.iter().map(|reason| (reason.text.as_str(), reason.lines)).collect();
        assert_eq!(lines[0], ("src_ip: expected an IP address", 1_000));
        assert_eq!(lines[1].1, 1_000);
        assert_eq!(lines.len(), 3);
        for number in 0..100 {
            unread.count_fault(&error("", &"x".repeat(number + 1)));
        }
        assert_eq!(
            (unread.reasons.len(), unread.further_lines),
            (MAX_REASONS, 100 - (MAX_REASONS as u64 - 3))
        );
    }
}
