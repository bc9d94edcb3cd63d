//! Prometheus' text format, version 0.0.4, streamed: no series is ever held but in the output.

use std::fmt::{Display, Write};

/// The kind of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only ever grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A metric family's definition; the name, the help and the kind stand together once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
}

impl Family {
    /// A counter.
    pub(crate) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter }
    }

    /// A gauge.
    pub(crate) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge }
    }

    /// Writes the head; the family's samples must follow before the next head.
    pub(crate) fn head(&self, out: &mut String) {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        for part in ["# HELP ", self.name, " ", self.help, "\n# TYPE ", self.name, " ", kind, "\n"] {
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
        // A String takes everything.
        let _ = writeln!(out, " {value}");
    }

    /// Writes a family of one sample without labels.
    pub(crate) fn single(&self, out: &mut String, value: impl Display) {
        self.head(out);
        self.sample(out, &[], value);
    }
}

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
    fn writes_what_prometheus_reads() {
        let mut out = String::new();
        let family = Family::counter("a_total", "Things.");
        family.head(&mut out);
        family.sample(&mut out, &[], 1);
        family.sample(&mut out, &[("x", "plain"), ("y", "a\\b\"c\nd")], -2);
        Family::gauge("b", "Seconds.").single(&mut out, 0.25);
        let expected = concat!(
            "# HELP a_total Things.\n# TYPE a_total counter\n",
            "a_total 1\n",
            "a_total{x=\"plain\",y=\"a\\\\b\\\"c\\nd\"} -2\n",
            "# HELP b Seconds.\n# TYPE b gauge\nb 0.25\n",
        );
        assert_eq!(out, expected);
    }
}
