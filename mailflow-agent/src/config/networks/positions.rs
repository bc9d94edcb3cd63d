//! Converts byte offsets of a text into lines and columns, in time proportional to the text.

use crate::config::diagnostics::Position;

/// Distance of two marks, in bytes. A step back costs at most this distance.
const MARK_DISTANCE_BYTES: usize = 1024;

/// Index of lines and columns of a text. A step forward costs its distance, a step back at most
/// [`MARK_DISTANCE_BYTES`].
///
/// Lines end with a line feed: [`normalize_line_ends`] has replaced other line ends.
pub(crate) struct LineIndex<'a> {
    text: &'a str,
    /// Positions about every [`MARK_DISTANCE_BYTES`] bytes, up to the largest offset so far.
    marks: Vec<(usize, Position)>,
    current: (usize, Position),
    /// Number of scanned bytes.
    #[cfg(test)]
    scanned_bytes: usize,
}

impl<'a> LineIndex<'a> {
    /// Returns an index at the start of a text.
    pub(crate) fn new(text: &'a str) -> Self {
        let current = (0, Position::START);
        Self {
            text,
            marks: vec![current],
            current,
            #[cfg(test)]
            scanned_bytes: 0,
        }
    }

    /// Returns the position of the character at byte `at`.
    pub(crate) fn position_of(&mut self, cursor: usize) -> Position {
        let cursor = cursor.min(self.text.len());
        if cursor < self.current.0 {
            let after = self.marks.partition_point(|(mark, _)| *mark <= cursor);
            self.current = self.marks.get(after.saturating_sub(1)).copied().unwrap_or((0, Position::START));
        }
        while self.current.0 < cursor {
            let mut next = cursor.min(self.current.0 + MARK_DISTANCE_BYTES);
            while !self.text.is_char_boundary(next) {
                next += 1;
            }
            self.step(next);
        }
        self.current.1
    }

    fn step(&mut self, next: usize) {
        let (cursor, position) = &mut self.current;
        let passed = self.text.get(*cursor..next).unwrap_or_default();
        match passed.rfind('\n') {
            Some(newline) => {
                position.line += passed.bytes().filter(|byte| *byte == b'\n').count();
                position.column = 1 + passed[newline + 1..].chars().count();
            }
            None => position.column += passed.chars().count(),
        }
        #[cfg(test)]
        {
            self.scanned_bytes += next - *cursor;
        }
        *cursor = next;
        if self.marks.last().is_none_or(|(mark, _)| next >= mark + MARK_DISTANCE_BYTES) {
            self.marks.push(self.current);
        }
    }
}

/// Replaces each carriage return that ends a line alone by a line feed. Byte offsets stay the same.
pub(crate) fn normalize_line_ends(text: String) -> String {
    if !text.contains('\r') {
        return text;
    }
    let mut bytes = text.into_bytes();
    for cursor in 0..bytes.len() {
        if bytes[cursor] == b'\r' && bytes.get(cursor + 1) != Some(&b'\n') {
            bytes[cursor] = b'\n';
        }
    }
    // An ASCII character replaces another, so the text stays UTF-8.
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_match_in_any_order() {
        let long = "ñ\nabc ".repeat(1_000);
        for text in ["ab\nñc\n\nd", &long] {
            let naive = |cursor: usize| Position::after(&text[..cursor]);
            let locations: Vec<usize> =
                text.char_indices().map(|(cursor, _)| cursor).chain([text.len()]).step_by(7).collect();
            let mut line_index = LineIndex::new(text);
            for cursor in locations.iter().chain(locations.iter().rev()).chain(locations.iter().step_by(3)) {
                assert_eq!(line_index.position_of(*cursor), naive(*cursor), "{cursor}");
            }
        }
    }

    /// Positions may be requested at the end of a row and then at its start, in a text of any length, with or
    /// without line ends.
    #[test]
    fn steps_back_cost_a_bounded_number_of_bytes() {
        for row in ["10.0.0.0/8,mta\n", "10.0.0.0/8,mta "] {
            let rows = 100_000;
            let text = row.repeat(rows);
            let mut line_index = LineIndex::new(&text);
            for start in (0..rows).map(|number| number * row.len()) {
                line_index.position_of(start + 11);
                line_index.position_of(start);
            }
            assert!(
                line_index.scanned_bytes <= text.len() + rows * (MARK_DISTANCE_BYTES + row.len()),
                "{}",
                line_index.scanned_bytes
            );
        }
    }

    #[test]
    fn carriage_returns_alone_become_line_feeds() {
        for (text, plain) in [("a\rb\r\nc\n\rd\r\r\n", "a\nb\r\nc\n\nd\n\r\n"), ("a\r", "a\n"), ("", "")] {
            assert_eq!(normalize_line_ends(text.to_owned()), plain);
        }
    }
}
