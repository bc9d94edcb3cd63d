//! Readers of typed values from the YAML tree.

use std::{collections::HashSet, fmt::Display, hash::Hash, ops::RangeInclusive};

use serde_yaml::Value;

use super::{get::Cursor, tree::Content};
use crate::config::{
    diagnostics::{DiagnosticSink, nearest},
    scalar::Switch,
};

/// Reads a scalar of any type with `parse`. `what` names the expected value.
pub(crate) fn parsed<T>(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    match cursor.text().map(parse) {
        Some(Ok(value)) => Some(value),
        Some(Err(expected)) => cursor.reject(diagnostics, expected),
        None => cursor.reject(diagnostics, format!("expected {what}")),
    }
}

/// Reads a string.
pub(crate) fn string<'a>(cursor: &Cursor<'a>, diagnostics: &mut DiagnosticSink) -> Option<&'a str> {
    match cursor.content() {
        Content::Scalar { text, value: Value::String(_) } => Some(text),
        Content::Scalar { value: Value::Bool(_) | Value::Number(_), .. } => {
            cursor.reject(diagnostics, "expected a text; put it in quotes")
        }
        _ => cursor.reject(diagnostics, "expected a text"),
    }
}

/// Reads a whole number within `range`.
pub(crate) fn number<T>(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    range: RangeInclusive<T>,
) -> Option<T>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    let number = match cursor.content() {
        Content::Scalar { value, .. } => value.as_u64().and_then(|number| T::try_from(number).ok()),
        _ => None,
    };
    match number.filter(|number| range.contains(number)) {
        Some(number) => Some(number),
        None => cursor.reject(
            diagnostics,
            format!("expected a whole number from {} to {}", range.start(), range.end()),
        ),
    }
}

/// Checks that the value is a mapping. The error shows `example`.
pub(crate) fn expect_mapping(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    example: &str,
) -> Option<()> {
    match cursor.content() {
        Content::Map(_) => Some(()),
        _ => cursor.reject(diagnostics, format!("expected a mapping such as {example}")),
    }
}

/// Reads `true` or `false`.
pub(crate) fn boolean(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<bool> {
    match cursor.content() {
        Content::Scalar { value: Value::Bool(value), .. } => Some(*value),
        _ => cursor.reject(diagnostics, "expected true or false"),
    }
}

/// Reads one of the named choices.
pub(crate) fn choice<T: Copy>(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    choices: &[(&str, T)],
) -> Option<T> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| cursor.text() == Some(name)) {
        return Some(*choice);
    }
    let names = || choices.iter().map(|(name, _)| *name);
    let all = names().collect::<Vec<_>>().join(", ");
    match cursor.text().and_then(|text| nearest(text, names())) {
        Some(name) => cursor.reject(diagnostics, format!("expected one of {all}; did you mean {name}?")),
        None => cursor.reject(diagnostics, format!("expected one of {all}")),
    }
}

/// Reads each item of a list with `read`; `None` for each invalid item.
pub(crate) fn items<'a, T>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    mut read: impl FnMut(&Cursor<'a>, &mut DiagnosticSink) -> Option<T>,
) -> Option<Vec<Option<T>>> {
    Some(cursor.items(diagnostics)?.map(|item| read(&item, diagnostics)).collect())
}

/// Reads a list without duplicates.
pub(crate) fn set<'a, T: Copy + Eq + Hash>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    mut read: impl FnMut(&Cursor<'a>, &mut DiagnosticSink) -> Option<T>,
) -> Option<Vec<T>> {
    let mut seen = HashSet::new();
    let items = items(cursor, diagnostics, |item, diagnostics| {
        let value = read(item, diagnostics)?;
        if seen.insert(value) { Some(value) } else { item.reject(diagnostics, "given twice in this list") }
    })?;
    items.into_iter().collect()
}

/// Reads a list without duplicates that must not be empty.
pub(crate) fn nonempty_set<'a, T: Copy + Eq + Hash>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    read: impl FnMut(&Cursor<'a>, &mut DiagnosticSink) -> Option<T>,
) -> Option<Vec<T>> {
    let set = set(cursor, diagnostics, read)?;
    if set.is_empty() {
        cursor.reject_contents(diagnostics, "an empty list matches nothing")
    } else {
        Some(set)
    }
}

/// Reads each entry of a mapping with arbitrary keys.
pub(crate) fn entries<'a, T>(
    cursor: &Cursor<'a>,
    diagnostics: &mut DiagnosticSink,
    mut read: impl FnMut(&str, &Cursor<'a>, &mut DiagnosticSink) -> Option<T>,
) -> Option<Vec<T>> {
    let all: Vec<_> =
        cursor.entries(diagnostics)?.map(|(entry, value)| read(&entry.key, &value, diagnostics)).collect();
    all.into_iter().collect()
}

/// Reads a value; `None` for `off`, `false` and null.
pub(crate) fn or_off<T>(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    what: &str,
    parse: impl FnOnce(&str) -> Result<Switch<T>, String>,
) -> Option<Option<T>> {
    match cursor.content() {
        Content::Scalar { value: Value::Null | Value::Bool(false), .. } => Some(None),
        Content::Scalar { value: Value::String(_), .. } => {
            parsed(cursor, diagnostics, what, parse).map(Into::into)
        }
        _ => cursor.reject(diagnostics, format!("expected {what}, or off")),
    }
}
