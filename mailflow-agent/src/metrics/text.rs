//! Prometheus' text format, version 0.0.4, written directly to the output.

use std::fmt::{Display, Write};

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricType {
    /// Monotonic counter.
    Counter,
    /// Gauge.
    Gauge,
}

/// Definition of a metric family, with name, help text and type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MetricFamily {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) metric_type: MetricType,
}

impl MetricFamily {
    /// Defines a counter.
    pub(crate) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, metric_type: MetricType::Counter }
    }

    /// Defines a gauge.
    pub(crate) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, metric_type: MetricType::Gauge }
    }

    /// Writes HELP and TYPE. The samples of the family must follow.
    pub(crate) fn head(&self, out: &mut String) {
        let metric_type = match self.metric_type {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
        };
        for part in ["# HELP ", self.name, " ", self.help, "\n# TYPE ", self.name, " ", metric_type, "\n"] {
            out.push_str(part);
        }
    }

    /// Writes one sample.
    pub(crate) fn sample(&self, out: &mut String, labels: &[(&str, &str)], value: impl Display) {
        out.push_str(self.name);
        let mut separator = '{';
        for (name, text) in labels {
            out.push(separator);
            separator = ',';
            out.push_str(name);
            out.push_str("=\"");
            escape(out, text);
            out.push('"');
        }
        if separator == ',' {
            out.push('}');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, " {value}");
    }

    /// Writes a family with one sample and no labels.
    pub(crate) fn single(&self, out: &mut String, value: impl Display) {
        self.head(out);
        self.sample(out, &[], value);
    }
}

/// Escapes a label value.
fn escape(out: &mut String, text: &str) {
    if !text.contains(['\\', '"', '\n']) {
        return out.push_str(text);
    }
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_valid_prometheus_text() {
        let mut out = String::new();
        let family = MetricFamily::counter("a_total", "Things.");
        family.head(&mut out);
        family.sample(&mut out, &[], 1);
        family.sample(&mut out, &[("x", "plain"), ("y", "a\\b\"c\nd")], -2);
        MetricFamily::gauge("b", "Seconds.").single(&mut out, 0.25);
        let expected = concat!(
            "# HELP a_total Things.\n# TYPE a_total counter\n",
            "a_total 1\n",
            "a_total{x=\"plain\",y=\"a\\\\b\\\"c\\nd\"} -2\n",
            "# HELP b Seconds.\n# TYPE b gauge\nb 0.25\n",
        );
        assert_eq!(out, expected);
    }
}
