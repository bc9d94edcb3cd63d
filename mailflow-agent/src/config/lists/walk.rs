//! From bytes of a text to lines and columns, in one go.

use crate::config::fault::Position;

/// Walks through a text; going forward costs no more than the way.
pub(super) struct Walk<'a> {
    text: &'a str,
    at: usize,
    position: Position,
}

impl<'a> Walk<'a> {
    /// At the beginning.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, position: Position::START }
    }

    /// The position of the character at byte `at`.
    pub(super) fn to(&mut self, at: usize) -> Position {
        if at < self.at {
            *self = Self::new(self.text);
        }
        let passed = self.text.get(self.at..at).unwrap_or_default();
        match passed.rfind('\n') {
            Some(newline) => {
                self.position.line += passed.matches('\n').count();
                self.position.column = 1 + passed[newline + 1..].chars().count();
            }
            None => self.position.column += passed.chars().count(),
        }
        self.at = at;
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_place_whatever_the_way() {
        let text = "ab\nñc\n\nd";
        let naive = |at: usize| Position::after(&text[..at]);
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut walk = Walk::new(text);
        for at in places.iter().chain(places.iter().rev()).chain(places.iter().step_by(3)) {
            assert_eq!(walk.to(*at), naive(*at), "{at}");
        }
    }
}
