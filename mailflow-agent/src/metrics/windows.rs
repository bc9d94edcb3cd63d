//! Window values of each rule and group key.

use super::text::MetricFamily;
use mailflow_engine::query::window_scan::WindowReport;

const WINDOW_VALUES: MetricFamily = MetricFamily::gauge(
    "mailflow_window_value",
    "Value of a rule's window for a group, in the unit of its condition: flows for count, bytes, packets or \
     messages for sum, sources, destinations or ports for distinct and first_seen. At the threshold the \
     value may be larger.",
);
const OMITTED_VALUES: MetricFamily = MetricFamily::gauge(
    "mailflow_window_values_omitted",
    "Number of window values above the limit. The highest values are shown.",
);

/// Writes the window values, which are never zero, and the number of omitted ones.
pub(crate) fn render(out: &mut String, windows: &WindowReport) {
    WINDOW_VALUES.head(out);
    for value in &windows.values {
        let source = value.group_key.source().map(|source| source.to_string());
        let destination = value.group_key.destination().map(|ip| ip.to_string());
        let group = value.group_key.group();
        let mut labels: Vec<(&str, &str)> = vec![("rule", &value.rule), ("condition", &value.term)];
        let optional_labels =
            [("source", source.as_deref()), ("destination", destination.as_deref()), ("group", group)];
        labels.extend(optional_labels.into_iter().filter_map(|(label, value)| Some((label, value?))));
        WINDOW_VALUES.sample(out, &labels, value.value.number());
    }
    OMITTED_VALUES.single(out, windows.omitted);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailflow_engine::{
        eval::GroupKey,
        event::{Source, Value, WindowValue},
    };

    #[test]
    fn writes_a_series_for_each_group() {
        let value = |subject, value| WindowValue {
            rule: "r".into(),
            term: "count".into(),
            group_key: subject,
            value,
        };
        let source = |host: u8| Source::of([10, 0, 0, host].into(), 64);
        let values = vec![
            value(GroupKey::Source(source(3)), Value::AtLeast(10)),
            value(GroupKey::Pair(Box::new((source(2), [192, 0, 2, 1].into()))), Value::Exactly(3)),
        ];
        let mut out = String::new();
        render(&mut out, &WindowReport { values, omitted: 1, ..WindowReport::default() });
        let samples: Vec<_> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "mailflow_window_value{rule=\"r\",condition=\"count\",source=\"10.0.0.3\"} 10",
                "mailflow_window_value{rule=\"r\",condition=\"count\",source=\"10.0.0.2\",destination=\"192.0.2.1\"} 3",
                "mailflow_window_values_omitted 1",
            ]
        );
    }
}
