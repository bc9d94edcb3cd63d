//! `explain` and `suggest`, for a running agent or for flow logs.

use std::{
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;

use super::{args::ExplainArgs, client::report_failure, command::ExitStatus};
use crate::{
    config::scalar::format_duration,
    control::{AllowSuggestion, Client, FlowExplanation, Reply, Request, SourceExplanation, TermExplanation},
    offline::backtest_session::BacktestSession,
};

/// Queries the agent about a source, and prints the explanation (`explain`).
pub fn explain(
    socket: &Path,
    args: &ExplainArgs,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitStatus> {
    let request = Request::Explain { source: args.source, flows: args.flows };
    let explanation = match Client::connect(socket).and_then(|mut client| client.call(&request)) {
        Ok(Reply::Explained(explanation)) => explanation,
        other => return report_failure(other, err),
    };
    print(args, &explanation, out)?;
    Ok(ExitStatus::Good)
}

/// Prints an explanation in the format of `args`.
pub fn print(args: &ExplainArgs, explanation: &SourceExplanation, out: &mut impl Write) -> io::Result<()> {
    if args.json {
        serde_json::to_writer_pretty(&mut *out, explanation)?;
        writeln!(out)
    } else {
        print_explanation(args, explanation, out)
    }
}

/// Queries the agent for suggestions, and prints them as allow-list entries (`suggest`).
pub fn suggest(socket: &Path, out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitStatus> {
    match Client::connect(socket).and_then(|mut client| client.call(&Request::Suggest)) {
        Ok(Reply::Suggested(suggestions)) => {
            print_allow_list(&suggestions, out)?;
            Ok(ExitStatus::Good)
        }
        other => report_failure(other, err),
    }
}

fn print_explanation(
    args: &ExplainArgs,
    explanation: &SourceExplanation,
    out: &mut impl Write,
) -> io::Result<()> {
    let source = args.source;
    match (&explanation.matched_network, &explanation.group) {
        (Some(line), Some(group)) => writeln!(out, "{source} is internal by `{line}`, group {group}")?,
        (Some(line), None) => writeln!(out, "{source} is internal by `{line}`")?,
        (None, _) => writeln!(out, "{source} is not in the internal networks")?,
    }
    if explanation.rules.is_empty() {
        writeln!(out, "no rule counts it")?;
    }
    for rule in &explanation.rules {
        let state = match rule.firing_since {
            Some(since) => format!("FIRING since {}", format_time(since)),
            None => "not firing".to_owned(),
        };
        let suppression = if rule.suppressed { ", on an allow-list" } else { "" };
        writeln!(out, "{} for {}: {state}{suppression}", rule.rule, rule.subject)?;
        for term in &rule.terms {
            writeln!(out, "  {}", describe_term(term))?;
        }
    }
    let since = explanation
        .since
        .map_or_else(|| "no flow yet".to_owned(), |since| format!("since {}", format_time(since)));
    writeln!(out, "flows, newest first; stored {since}")?;
    explanation.flows.iter().try_for_each(|flow| print_flow(flow, out))
}

fn describe_term(term: &TermExplanation) -> String {
    let TermExplanation { name, unit, window_seconds, value, at_bound, threshold } = term;
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let window = format_duration(std::time::Duration::from_secs(*window_seconds));
    let Some(value) = value else {
        return format!(
            "{name:<34} not evaluable, as no record has the required fields; threshold {threshold}{unit} in {window}"
        );
    };
    let (bound, verdict) =
        (if *at_bound { ">= " } else { "" }, if value >= threshold { "holds" } else { "no" });
    format!("{name:<34} {bound}{value} of {threshold}{unit} in {window}: {verdict}")
}

fn print_flow(flow: &FlowExplanation, out: &mut impl Write) -> io::Result<()> {
    let FlowExplanation { time, client, server, app_proto, reason, up, down, messages, verdicts } = flow;
    let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let direction = |direction: &(Option<u64>, Option<u64>)| match direction {
        (None, None) => "not recorded".to_owned(),
        (packets, bytes) => format!("{} B / {}", number(*bytes), number(*packets)),
    };
    let messages = messages.map_or_else(|| "not recorded".to_owned(), |messages| messages.to_string());
    writeln!(
        out,
        "{} {client} -> {server} {app_proto} {reason}, up {}, down {}, messages {messages}",
        format_time(*time),
        direction(up),
        direction(down)
    )?;
    for (rule, why) in verdicts {
        writeln!(out, "    {rule:<24} {}", why.as_deref().unwrap_or("counts"))?;
    }
    Ok(())
}

/// Prints suggestions from flow logs. A log may not contain everything that they need.
pub fn suggest_from_logs(past: &BacktestSession, out: &mut impl Write) -> io::Result<()> {
    let (unknown, attempts) = past.count_unknown_outcomes();
    if unknown > 0 {
        writeln!(
            out,
            "# For {unknown} of {attempts} attempts it is unknown whether mail was delivered: their log lacks the fields."
        )?;
    }
    print_allow_list(&past.suggest(), out)
}

/// Prints suggestions as an allow-list.
pub fn print_allow_list(suggestions: &[AllowSuggestion], out: &mut impl Write) -> io::Result<()> {
    if suggestions.is_empty() {
        return writeln!(out, "# Nothing behaves like a relay so far.");
    }
    writeln!(out, "# Check each entry before you use it: an allow-list suppresses alerts.")?;
    writeln!(out, "allow:")?;
    for AllowSuggestion { source, destination, because } in suggestions {
        writeln!(out, "  # {because}")?;
        let (source, what) = match source {
            Some(source) => (source.as_str(), "behaves like a relay"),
            None => ("internal", "mail provider"),
        };
        let destination = destination.as_deref().unwrap_or("any");
        writeln!(out, "  - {{ source: \"{source}\", destination: \"{destination}\", reason: {what} }}")?;
    }
    Ok(())
}

fn format_time(seconds: f64) -> String {
    let format_time = Timestamp::from_millisecond((seconds * 1e3) as i64);
    format_time.map_or_else(|_| format!("{seconds}"), |format_time| format!("{format_time:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, control::RuleExplanation};

    #[test]
    fn a_suggestion_is_a_configuration() {
        let suggested = |source: Option<&str>, destination: Option<&str>| AllowSuggestion {
            source: source.map(str::to_owned),
            destination: destination.map(str::to_owned),
            because: "30 of 30 sessions delivered mail, to 12 servers".to_owned(),
        };
        let mut text = Vec::new();
        print_allow_list(
            &[suggested(Some("10.0.0.1"), None), suggested(None, Some("2620:fe::fe"))],
            &mut text,
        )
        .unwrap();
        let text = String::from_utf8(text).unwrap();
        let config = config::parse("suggested", &text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        assert_eq!(config.engine.rules[0].allow.len(), 2, "{text}");
    }

    #[test]
    fn an_explanation_names_numbers_and_reasons() {
        let term = TermExplanation {
            name: "count".to_owned(),
            unit: "flows".to_owned(),
            window_seconds: 3_600,
            value: Some(3.0),
            at_bound: false,
            threshold: 10.0,
        };
        let rule = RuleExplanation {
            rule: "smtp-burst".to_owned(),
            subject: "10.0.0.1".to_owned(),
            terms: vec![term],
            ..RuleExplanation::default()
        };
        let why = Some("it is imap".to_owned());
        let flow = FlowExplanation {
            time: 1e9,
            verdicts: vec![("smtp-burst".to_owned(), why)],
            ..FlowExplanation::default()
        };
        let explanation = SourceExplanation {
            matched_network: Some("10.0.0.0/8".to_owned()),
            rules: vec![rule],
            flows: vec![flow],
            ..SourceExplanation::default()
        };
        let args = ExplainArgs {
            source: "10.0.0.1".parse().unwrap(),
            flows: 5,
            json: false,
            logs: Default::default(),
            socket: Default::default(),
        };
        let mut text = Vec::new();
        print_explanation(&args, &explanation, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in
            ["internal by `10.0.0.0/8`", "3 of 10 flows in 1h: no", "2001-09-09T01:46:40Z", "it is imap"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
