//! From bytes of a text to lines and columns, in time proportional to the text.

use crate::config::diagnostics::Position;

/// Bytes between two marks: a step back costs no more than this.
const STEP: usize = 1024;

/// Walks through a text. A step forward costs the way; a step back costs at most [`STEP`] bytes.
///
/// Lines end with a line feed: [`one_line_end`] has made the others equal before.
pub(crate) struct Walk<'a> {
    text: &'a str,
    /// The position of a byte about every [`STEP`] bytes, as far as the walk has come.
    marks: Vec<(usize, Position)>,
    here: (usize, Position),
    /// Bytes looked at.
    #[cfg(test)]
    walked: usize,
}

impl<'a> Walk<'a> {
    /// At the beginning.
    pub(crate) fn new(text: &'a str) -> Self {
        let here = (0, Position::START);
        Self {
            text,
            marks: vec![here],
            here,
            #[cfg(test)]
            walked: 0,
        }
    }

    /// The position of the character at byte `at`.
    pub(crate) fn to(&mut self, at: usize) -> Position {
        let at = at.min(self.text.len());
        if at < self.here.0 {
            let after = self.marks.partition_point(|(mark, _)| *mark <= at);
            self.here = self.marks.get(after.saturating_sub(1)).copied().unwrap_or((0, Position::START));
        }
        while self.here.0 < at {
            let mut next = at.min(self.here.0 + STEP);
            while !self.text.is_char_boundary(next) {
                next += 1;
            }
            self.step(next);
        }
        self.here.1
    }

    fn step(&mut self, next: usize) {
        let (at, position) = &mut self.here;
        let passed = self.text.get(*at..next).unwrap_or_default();
        match passed.rfind('\n') {
            Some(newline) => {
                position.line += passed.bytes().filter(|byte| *byte == b'\n').count();
                position.column = 1 + passed[newline + 1..].chars().count();
            }
            None => position.column += passed.chars().count(),
        }
        #[cfg(test)]
        {
            self.walked += next - *at;
        }
        *at = next;
        if self.marks.last().is_none_or(|(mark, _)| next >= mark + STEP) {
            self.marks.push(self.here);
        }
    }
}

/// `text` with a line feed for each carriage return that ends a line alone. Bytes keep their places.
pub(crate) fn one_line_end(text: String) -> String {
    if !text.contains('\r') {
        return text;
    }
    let mut bytes = text.into_bytes();
    for at in 0..bytes.len() {
        if bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n') {
            bytes[at] = b'\n';
        }
    }
    // One ASCII character took the place of another.
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_place_whatever_the_way() {
        let long = "ñ\nabc ".repeat(1_000);
        for text in ["ab\nñc\n\nd", &long] {
            let naive = |at: usize| Position::after(&text[..at]);
            let places: Vec<usize> =
                text.char_indices().map(|(at, _)| at).chain([text.len()]).step_by(7).collect();
            let mut walk = Walk::new(text);
            for at in places.iter().chain(places.iter().rev()).chain(places.iter().step_by(3)) {
                assert_eq!(walk.to(*at), naive(*at), "{at}");
            }
        }
    }

    /// A row may be asked for at its end and then at its beginning, in a text of any length, with or without
    /// line ends.
    #[test]
    fn steps_back_cost_a_bounded_number_of_bytes() {
        for row in ["10.0.0.0/8,mta\n", "10.0.0.0/8,mta "] {
            let rows = 100_000;
            let text = row.repeat(rows);
            let mut walk = Walk::new(&text);
            for start in (0..rows).map(|number| number * row.len()) {
                walk.to(start + 11);
                walk.to(start);
            }
            assert!(walk.walked <= text.len() + rows * (STEP + row.len()), "{}", walk.walked);
        }
    }

    #[test]
    fn carriage_returns_alone_become_line_feeds() {
        for (text, plain) in [("a\rb\r\nc\n\rd\r\r\n", "a\nb\r\nc\n\nd\n\r\n"), ("a\r", "a\n"), ("", "")] {
            assert_eq!(one_line_end(text.to_owned()), plain);
        }
    }
}
