//! Values of each type, read from the tree.

use std::{collections::HashSet, fmt::Display, hash::Hash, ops::RangeInclusive};

use serde_yaml::Value;

use super::{get::At, tree::Content};
use crate::config::{
    diagnostics::{Collector, nearest},
    scalar::Switch,
};

/// A single value of any type by its text, through one of the functions of `value`; `what` names it.
pub(crate) fn parsed<T>(
    at: &At<'_>,
    faults: &mut Collector,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    match at.text().map(parse) {
        Some(Ok(value)) => Some(value),
        Some(Err(expected)) => at.fault(faults, expected),
        None => at.fault(faults, format!("expected {what}")),
    }
}

/// A text.
pub(crate) fn string<'a>(at: &At<'a>, faults: &mut Collector) -> Option<&'a str> {
    match at.content() {
        Content::Scalar { text, value: Value::String(_) } => Some(text),
        Content::Scalar { value: Value::Bool(_) | Value::Number(_), .. } => {
            at.fault(faults, "expected a text; put it in quotes")
        }
        _ => at.fault(faults, "expected a text"),
    }
}

/// A whole number within `range`.
pub(crate) fn number<T>(at: &At<'_>, faults: &mut Collector, range: RangeInclusive<T>) -> Option<T>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    let number = match at.content() {
        Content::Scalar { value, .. } => value.as_u64().and_then(|number| T::try_from(number).ok()),
        _ => None,
    };
    match number.filter(|number| range.contains(number)) {
        Some(number) => Some(number),
        None => {
            at.fault(faults, format!("expected a whole number from {} to {}", range.start(), range.end()))
        }
    }
}

/// Refuses what is no mapping, and shows one.
pub(crate) fn mapping(at: &At<'_>, faults: &mut Collector, example: &str) -> Option<()> {
    match at.content() {
        Content::Map(_) => Some(()),
        _ => at.fault(faults, format!("expected a mapping such as {example}")),
    }
}

/// `true` or `false`.
pub(crate) fn boolean(at: &At<'_>, faults: &mut Collector) -> Option<bool> {
    match at.content() {
        Content::Scalar { value: Value::Bool(value), .. } => Some(*value),
        _ => at.fault(faults, "expected true or false"),
    }
}

/// One of the named choices.
pub(crate) fn choice<T: Copy>(at: &At<'_>, faults: &mut Collector, choices: &[(&str, T)]) -> Option<T> {
    if let Some((_, choice)) = choices.iter().find(|(name, _)| at.text() == Some(name)) {
        return Some(*choice);
    }
    let names = || choices.iter().map(|(name, _)| *name);
    let all = names().collect::<Vec<_>>().join(", ");
    match at.text().and_then(|text| nearest(text, names())) {
        Some(name) => at.fault(faults, format!("expected one of {all}; did you mean {name}?")),
        None => at.fault(faults, format!("expected one of {all}")),
    }
}

/// Each item of a list, `None` for one that `read` refused; all are read.
pub(crate) fn items<'a, T>(
    at: &At<'a>,
    faults: &mut Collector,
    mut read: impl FnMut(&At<'a>, &mut Collector) -> Option<T>,
) -> Option<Vec<Option<T>>> {
    Some(at.items(faults)?.map(|item| read(&item, faults)).collect())
}

/// A list of different values.
pub(crate) fn set<'a, T: Copy + Eq + Hash>(
    at: &At<'a>,
    faults: &mut Collector,
    mut read: impl FnMut(&At<'a>, &mut Collector) -> Option<T>,
) -> Option<Vec<T>> {
    let mut seen = HashSet::new();
    let items = items(at, faults, |item, faults| {
        let value = read(item, faults)?;
        if seen.insert(value) { Some(value) } else { item.fault(faults, "given twice in this list") }
    })?;
    items.into_iter().collect()
}

/// The same, with something in it.
pub(crate) fn nonempty_set<'a, T: Copy + Eq + Hash>(
    at: &At<'a>,
    faults: &mut Collector,
    read: impl FnMut(&At<'a>, &mut Collector) -> Option<T>,
) -> Option<Vec<T>> {
    let set = set(at, faults, read)?;
    if set.is_empty() { at.fault_inside(faults, "an empty list matches nothing") } else { Some(set) }
}

/// Each entry of a mapping whose keys are the file's own choice.
pub(crate) fn entries<'a, T>(
    at: &At<'a>,
    faults: &mut Collector,
    mut read: impl FnMut(&str, &At<'a>, &mut Collector) -> Option<T>,
) -> Option<Vec<T>> {
    let all: Vec<_> = at.entries(faults)?.map(|(entry, value)| read(&entry.key, &value, faults)).collect();
    all.into_iter().collect()
}

/// A value, or none for `off`, `false` and nothing at all.
pub(crate) fn or_off<T>(
    at: &At<'_>,
    faults: &mut Collector,
    what: &str,
    parse: impl FnOnce(&str) -> Result<Switch<T>, String>,
) -> Option<Option<T>> {
    match at.content() {
        Content::Scalar { value: Value::Null | Value::Bool(false), .. } => Some(None),
        Content::Scalar { value: Value::String(_), .. } => parsed(at, faults, what, parse).map(Into::into),
        _ => at.fault(faults, format!("expected {what}, or off")),
    }
}
