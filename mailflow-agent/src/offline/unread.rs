//! Unreadable lines of a flow log: one log message for each reason, with a count.

use std::path::Path;

use tracing::{error, warn};

use super::flowlog::LineError;

/// Largest number of reasons that have their own count, for one log.
const MAX_REASONS: usize = 20;

/// Counts of the unreadable lines of one log.
#[derive(Debug, Default)]
pub(crate) struct UnreadLines {
    reasons: Vec<UnreadReason>,
    /// Lines of further reasons.
    further_lines: u64,
    /// Events that hold one direction each.
    pub(crate) one_way: u64,
}

/// Number of unreadable lines of a reason.
#[derive(Debug)]
struct UnreadReason {
    /// Description without values.
    text: String,
    key: String,
    lines: u64,
}

impl UnreadLines {
    /// Counts an unreadable line. Returns true if it is the first of its reason, and so is to be logged.
    pub(crate) fn count_line(&mut self, error: &LineError) -> bool {
        let text = error_text(error);
        // Numbers in the text belong to one line.
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

    /// Logs the number of unreadable lines, by reason.
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
                "{path}: {} netflow events are skipped, as each holds one direction: configure Suricata to log flow events",
                self.one_way
            );
        }
    }
}

/// Returns the description of an error without the value.
fn error_text(error: &LineError) -> String {
    let text = error.message.find("expected ").map_or(error.message.as_str(), |at| &error.message[at..]);
    if error.field.is_empty() { text.to_owned() } else { format!("{}: {text}", error.field) }
}

/// Replaces runs of zeros by a single zero.
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
        LineError { column: 1, field: field.to_owned(), message: text.to_owned() }
    }

    #[test]
    fn a_reason_is_logged_once_for_all_values() {
        let mut unread = UnreadLines::default();
        for number in 0..1_000 {
            let ip = error("src_ip", &format!("\"10.0.0.{number}\": expected an IP address"));
            let short = format!("\"{number}\": expected at least 14 a packet, of which there are {number}");
            let short = error("flow.bytes_toserver", &short);
            assert_eq!(unread.count_line(&ip), number == 0);
            assert_eq!(unread.count_line(&short), number == 0);
        }
        assert!(unread.count_line(&error("dest_ip", "\"x\": expected an IP address")));
        let lines: Vec<_> =
            unread.reasons.iter().map(|reason| (reason.text.as_str(), reason.lines)).collect();
        assert_eq!(lines[0], ("src_ip: expected an IP address", 1_000));
        assert_eq!(lines[1].1, 1_000);
        assert_eq!(lines.len(), 3);
        for number in 0..100 {
            unread.count_line(&error("", &"x".repeat(number + 1)));
        }
        assert_eq!(
            (unread.reasons.len(), unread.further_lines),
            (MAX_REASONS, 100 - (MAX_REASONS as u64 - 3))
        );
    }
}
