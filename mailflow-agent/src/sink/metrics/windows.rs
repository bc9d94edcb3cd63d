//! The window gauge: what each rule's window holds for each source.

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
        let rank = |value: &WindowValue| std::cmp::Reverse(value.value.number());
        shown.sort_unstable_by(|a, b| (rank(a), &a.rule, a.source).cmp(&(rank(b), &b.rule, b.source)));
        shown.truncate(limit);
    }
    VALUE.head(out);
    for value in shown {
        let source = value.source.to_string();
        VALUE.sample(out, &[("rule", &value.rule), ("source", &source)], value.value.number());
    }
    OMITTED.single(out, omitted);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::event::{Source, Value};

    #[test]
    fn the_cap_keeps_the_highest_and_zeros_are_no_series() {
        let value = |host: u8, value| WindowValue {
            rule: Arc::from("r"),
            source: Source::of([10, 0, 0, host].into(), 64),
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
                "mailflow_window_value{rule=\"r\",source=\"10.0.0.3\"} 10",
                "mailflow_window_value{rule=\"r\",source=\"10.0.0.2\"} 3",
                "mailflow_window_values_omitted 1",
            ]
        );
    }
}
