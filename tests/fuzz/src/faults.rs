//! Checks of diagnostics: limited number, inside of the file, one line each.

use mailflow_agent::config::Diagnostic;

/// Maximum number of errors, and of warnings, of one file: a hundred, and the count of further ones.
const MOST: usize = 101;
/// Longest diagnostic in bytes, however long the value is.
const LONGEST: usize = 8_000;

/// Checks the diagnostics of the file `name` with the contents `text`.
pub(crate) fn check<'a>(faults: impl IntoIterator<Item = &'a Diagnostic>, name: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<usize> = text.split('\n').map(|line| line.chars().count()).collect();
    let mut number = 0;
    for fault in faults {
        let shown = fault.to_string();
        assert!(!shown.chars().any(char::is_control), "control characters: {shown:?}");
        assert!(shown.len() <= LONGEST, "a fault of {} bytes: {shown}", shown.len());
        if &*fault.location.file != name {
            continue;
        }
        number += 1;
        if let Some(position) = fault.location.position {
            let length = position.line.checked_sub(1).and_then(|line| lines.get(line));
            let within = length.is_some_and(|length| (1..=length + 1).contains(&position.column));
            assert!(within, "outside of the file's {} lines: {shown}", lines.len());
        }
    }
    assert!(number <= MOST, "{number} faults");
}
