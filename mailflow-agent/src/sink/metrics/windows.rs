//! The window gauge: what each rule's window holds for each source.

use std::sync::Arc;

use super::text::Family;
use crate::engine::event::WindowValue;

const VALUE: Family = Family::gauge(
    "mailflow_window_value",
    "What a rule's window holds for a source; at the threshold it means that or more.",
);
const OMITTED: Family = Family::gauge(
    "mailflow_window_values_omitted",
    "Window values not shown because of the cap; the highest are shown.",
);

/// Writes the highest `limit` of the values that are not zero.
pub(super) fn render(out: &mut String, values: &[WindowValue], limit: usize) {
    let mut shown: Vec<&WindowValue> = values.iter().filter(|value| value.value.number() > 0).collect();
    let omitted = shown.len().saturating_sub(limit);
    if omitted > 0 {
        // By rule and source among equals, so that the choice does not change between scrapes.
        let order = |value: &&WindowValue| {
            let rank = std::cmp::Reverse(value.value.number());
            (rank, Arc::clone(&value.rule), Arc::clone(&value.term), value.subject.clone())
        };
        shown.sort_by_cached_key(order);
        shown.truncate(limit);
    }
    VALUE.head(out);
    for value in shown {
        let source = value.subject.source().map(|source| source.to_string());
        let destination = value.subject.destination().map(|ip| ip.to_string());
        let group = value.subject.group();
        let mut labels: Vec<(&str, &str)> = vec![("rule", &value.rule), ("condition", &value.term)];
        let named =
            [("source", source.as_deref()), ("destination", destination.as_deref()), ("group", group)];
        labels.extend(named.into_iter().filter_map(|(label, value)| Some((label, value?))));
        VALUE.sample(out, &labels, value.value.number());
    }
    OMITTED.single(out, omitted);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        event::{Source, Value},
        subject::Subject,
    };

    #[test]
    fn the_cap_keeps_the_highest_and_zeros_are_no_series() {
        let value = |host: u8, value| WindowValue {
            rule: Arc::from("r"),
            term: Arc::from("count"),
            subject: Subject::Source(Source::of([10, 0, 0, host].into(), 64)),
            value,
        };
        let values = [
            value(1, Value::Exactly(0)),
            value(2, Value::Exactly(3)),
            value(3, Value::AtLeast(10)),
            value(4, Value::Exactly(3)),
        ];
        let mut out = String::new();
        render(&mut out, &values, 2);
        let samples: Vec<_> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "mailflow_window_value{rule=\"r\",condition=\"count\",source=\"10.0.0.3\"} 10",
                "mailflow_window_value{rule=\"r\",condition=\"count\",source=\"10.0.0.2\"} 3",
                "mailflow_window_values_omitted 1",
            ]
        );
    }
}
