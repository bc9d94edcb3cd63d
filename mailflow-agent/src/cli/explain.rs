//! The commands that tell why: `explain` and `suggest`, of what the running agent says or flow logs hold.

use std::{
    io::{self, Write},
    path::Path,
};

use jiff::Timestamp;

use super::{args::ExplainArgs, client::unexpected, command::Exit};
use crate::{
    config::scalar::format_duration,
    control::{Client, Explained, HeldTerm, JudgedFlow, Reply, Request, Suggested},
    offline::past::Past,
};

/// `explain`: prints all there is to say of a source.
pub fn explain(
    socket: &Path,
    args: &ExplainArgs,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<Exit> {
    let request = Request::Explain { source: args.source, flows: args.flows };
    let told = match Client::connect(socket).and_then(|mut client| client.call(&request)) {
        Ok(Reply::Explained(told)) => told,
        other => return unexpected(other, err),
    };
    print(args, &told, out)?;
    Ok(Exit::Good)
}

/// Prints it, as `args` say.
pub fn print(args: &ExplainArgs, told: &Explained, out: &mut impl Write) -> io::Result<()> {
    if args.json {
        serde_json::to_writer_pretty(&mut *out, told)?;
        writeln!(out)
    } else {
        show(args, told, out)
    }
}

/// `suggest`: prints allow-list entries.
pub fn suggest(socket: &Path, out: &mut impl Write, err: &mut impl Write) -> io::Result<Exit> {
    match Client::connect(socket).and_then(|mut client| client.call(&Request::Suggest)) {
        Ok(Reply::Suggested(suggestions)) => {
            yaml(&suggestions, out)?;
            Ok(Exit::Good)
        }
        other => unexpected(other, err),
    }
}

fn show(args: &ExplainArgs, told: &Explained, out: &mut impl Write) -> io::Result<()> {
    let source = args.source;
    match (&told.matched_network, &told.group) {
        (Some(line), Some(group)) => writeln!(out, "{source} is internal by `{line}`, group {group}")?,
        (Some(line), None) => writeln!(out, "{source} is internal by `{line}`")?,
        (None, _) => writeln!(out, "{source} is not in the internal networks")?,
    }
    if told.rules.is_empty() {
        writeln!(out, "no rule looks at it")?;
    }
    for rule in &told.rules {
        let state = match rule.firing_since {
            Some(since) => format!("FIRING since {}", moment(since)),
            None => "quiet".to_owned(),
        };
        let aside = if rule.suppressed { ", on an allow-list" } else { "" };
        writeln!(out, "{} for {}: {state}{aside}", rule.rule, rule.subject)?;
        for term in &rule.terms {
            writeln!(out, "  {}", held(term))?;
        }
    }
    let since =
        told.since.map_or_else(|| "no flow yet".to_owned(), |since| format!("since {}", moment(since)));
    writeln!(out, "flows, the newest first; remembered {since}")?;
    told.flows.iter().try_for_each(|judged| flow(judged, out))
}

fn held(term: &HeldTerm) -> String {
    let HeldTerm { name, unit, window_seconds, value, at_bound, threshold } = term;
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    let window = format_duration(std::time::Duration::from_secs(*window_seconds));
    let Some(value) = value else {
        return format!("{name:<32} not evaluable, as no record tells it; {threshold}{unit} in {window}");
    };
    let (bound, verdict) =
        (if *at_bound { ">= " } else { "" }, if value >= threshold { "holds" } else { "no" });
    format!("{name:<32} {bound}{value} of {threshold}{unit} in {window}: {verdict}")
}

fn flow(flow: &JudgedFlow, out: &mut impl Write) -> io::Result<()> {
    let JudgedFlow { time, client, server, app_proto, reason, up, down, messages, verdicts } = flow;
    let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let way = |way: &(Option<u64>, Option<u64>)| match way {
        (None, None) => "not recorded".to_owned(),
        (packets, bytes) => format!("{} B / {}", number(*bytes), number(*packets)),
    };
    let messages = messages.map_or_else(|| "not recorded".to_owned(), |messages| messages.to_string());
    writeln!(
        out,
        "{} {client} -> {server} {app_proto} {reason}, up {}, down {}, messages {messages}",
        moment(*time),
        way(up),
        way(down)
    )?;
    for (rule, why) in verdicts {
        writeln!(out, "    {rule:<24} {}", why.as_deref().unwrap_or("counts"))?;
    }
    Ok(())
}

/// The same of flow logs, which may not tell all that it takes.
pub fn of_logs(past: &Past, out: &mut impl Write) -> io::Result<()> {
    let (unknown, attempts) = past.undelivered_or_not();
    if unknown > 0 {
        writeln!(
            out,
            "# Of {unknown} of {attempts} attempts it is not known whether mail was delivered: their log does not tell."
        )?;
    }
    yaml(&past.suggest(), out)
}

/// Prints them as an allow-list.
pub fn yaml(suggestions: &[Suggested], out: &mut impl Write) -> io::Result<()> {
    if suggestions.is_empty() {
        return writeln!(out, "# Nothing behaves like a relay so far.");
    }
    writeln!(out, "# Look at each before you take it: an allow-list hides what it names.")?;
    writeln!(out, "allow:")?;
    for Suggested { source, destination, because } in suggestions {
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

fn moment(seconds: f64) -> String {
    let moment = Timestamp::from_millisecond((seconds * 1e3) as i64);
    moment.map_or_else(|_| format!("{seconds}"), |moment| format!("{moment:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, control::HeldRule};

    #[test]
    fn a_suggestion_is_a_configuration() {
        let suggested = |source: Option<&str>, destination: Option<&str>| Suggested {
            source: source.map(str::to_owned),
            destination: destination.map(str::to_owned),
            because: "30 of 30 sessions delivered mail, to 12 servers".to_owned(),
        };
        let mut text = Vec::new();
        yaml(&[suggested(Some("10.0.0.1"), None), suggested(None, Some("2620:fe::fe"))], &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let config = config::parse("suggested", &text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        assert_eq!(config.engine.rules[0].allow.len(), 2, "{text}");
    }

    #[test]
    fn an_explanation_names_numbers_and_reasons() {
        let term = HeldTerm {
            name: "count".to_owned(),
            unit: "flows".to_owned(),
            window_seconds: 3_600,
            value: Some(3.0),
            at_bound: false,
            threshold: 10.0,
        };
        let rule = HeldRule {
            rule: "smtp-burst".to_owned(),
            subject: "10.0.0.1".to_owned(),
            terms: vec![term],
            ..HeldRule::default()
        };
        let why = Some("it is imap".to_owned());
        let flow =
            JudgedFlow { time: 1e9, verdicts: vec![("smtp-burst".to_owned(), why)], ..JudgedFlow::default() };
        let told = Explained {
            matched_network: Some("10.0.0.0/8".to_owned()),
            rules: vec![rule],
            flows: vec![flow],
            ..Explained::default()
        };
        let args = ExplainArgs {
            source: "10.0.0.1".parse().unwrap(),
            flows: 5,
            json: false,
            logs: Default::default(),
            socket: Default::default(),
        };
        let mut text = Vec::new();
        show(&args, &told, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in
            ["internal by `10.0.0.0/8`", "3 of 10 flows in 1h: no", "2001-09-09T01:46:40Z", "it is imap"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
