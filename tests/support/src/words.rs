//! Words that comments and documents avoid (CONTRIBUTING.md, "Words").

/// Words that are no terms of the field.
pub const NO_WORDS: [&str; 18] = [
    "told",
    "anew",
    "amid",
    "beside",
    "whoever",
    "nobody",
    "somebody",
    "for want of",
    "of late",
    "by then",
    "rooms",
    "clerk",
    "hearer",
    "lookout",
    "hung",
    "put aside",
    "twin",
    "all the same",
];

/// Returns true if `text` has `word`, in upper or lower case, not as part of another word.
pub fn has(text: &str, word: &str) -> bool {
    has_name(&text.to_lowercase(), word)
}

/// Returns true if `text` has `name` as a whole identifier.
pub fn has_name(text: &str, name: &str) -> bool {
    let is_part = |found: Option<char>| found.is_some_and(|found| found.is_alphanumeric() || found == '_');
    text.match_indices(name).any(|(at, _)| {
        !is_part(text[..at].chars().next_back()) && !is_part(text[at + name.len()..].chars().next())
    })
}
