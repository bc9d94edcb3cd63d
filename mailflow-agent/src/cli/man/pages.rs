//! Man pages of the daemon and of the commands.

use std::io;

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use super::{
    man_page::ManPage,
    manual::{self, DOCUMENTS, Manual},
};
use crate::cli::args::Cli;

/// Name of the manual in the header of each page.
pub(super) const MANUAL: &str = "mailflow";

/// Commands that accept `--config` as every command does, and do not use it.
const WITHOUT_CONFIG: [&str; 4] = ["rules", "completions", "man", "version"];

/// Signals that the daemon handles.
const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "Stops the agent and detaches its programs. With --keep or state.at_stop: keep, the programs stay attached \
         and continue to count for the next agent.",
    ),
    ("SIGQUIT", "Stops the agent and always detaches its programs."),
    (
        "SIGHUP",
        "Reloads the configuration, completely or not at all, and logs the result. mailflow-agent-reload(1) also \
         reloads the configuration, and prints the result.",
    ),
];

/// Paragraphs about the daemon.
const DAEMON: [&str; 4] = [
    "mailflow-agent detects internal hosts that send too much mail. On a Linux gateway, a mail host or a mirror \
     port, it attaches an eBPF program to interfaces (XDP or TC). The program counts every packet of every mail \
     flow in the kernel. The agent turns these counts into flow records, evaluates rules over time windows, and \
     sends alerts with their evidence to files, the journal, syslog, Alertmanager and webhooks. It serves metrics \
     for Prometheus. It blocks no traffic and reads no message.",
    "mailflow-agent run is the daemon. Without --config, it uses the built-in configuration, which contains no \
     interface and writes alerts to standard output. Set an interface with --interface, or in a configuration file \
     (mailflow.yaml(5)). The log goes to standard error.",
    "The package contains the service mailflow-agent.service, which runs the daemon as the user mailflow with \
     /etc/mailflow/mailflow.yaml. The service is not enabled at installation, because the configuration must first \
     contain an interface. Then enable it: systemctl enable --now mailflow-agent.",
    "The other commands query the running agent, check a configuration or a machine, or evaluate rules on captures \
     and flow logs. Each command has its own page. The option --config FILE may be before or after the name of a \
     command.",
];

/// Returns the pages of all commands.
pub(super) fn commands() -> io::Result<Vec<ManPage>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = vec![
        daemon(&root)?,
        ManPage {
            name: "mailflow-agent-run".to_owned(),
            section: "8",
            text: ".so man8/mailflow-agent.8\n".to_owned(),
        },
    ];
    for command in root.get_subcommands().filter(|command| command.get_name() != "run") {
        pages.push(page(command, &[])?);
        for subcommand in command.get_subcommands() {
            pages.push(page(subcommand, &[command.get_name()])?);
        }
    }
    Ok(pages)
}

/// Returns the page of the daemon.
fn daemon(root: &Command) -> io::Result<ManPage> {
    let name = root.get_name().to_owned();
    let mut roff = Roff::new();
    title(&mut roff, &name, "8");
    section(&mut roff, "NAME");
    roff.text([roman(format!(
        "{name} - count mail flows of internal hosts in the kernel, evaluate rules, send alerts"
    ))]);
    section(&mut roff, "SYNOPSIS");
    let run = root.find_subcommand("run");
    if let Some(run) = run {
        synopsis(&mut roff, run);
        roff.control("br", []);
    }
    roff.text([
        bold(&name),
        roman(" [--config "),
        italic("FILE"),
        roman("] "),
        italic("COMMAND"),
        roman(" [...]"),
    ]);
    roff.control("br", []);
    roff.text([bold(&name), roman(" --help | --version")]);
    section(&mut roff, "DESCRIPTION");
    paragraphs(&mut roff, &DAEMON);
    let manual = manual::find("run");
    if let Some(manual) = manual {
        paragraphs(&mut roff, manual.notes);
    }
    let mut text = roff.render();
    if let Some(run) = run {
        text.push_str(&options(run)?);
    }
    let mut roff = Roff::new();
    section(&mut roff, "COMMANDS");
    for command in root.get_subcommands() {
        entry(&mut roff, [bold(command.get_name())]);
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let place = if command.get_name() == "run" {
            "Described on this page.".to_owned()
        } else {
            format!("See {name}-{}(1).", command.get_name())
        };
        roff.text([roman(format!("{about}. {place}"))]);
    }
    section(&mut roff, "SIGNALS");
    entries(&mut roff, &SIGNALS);
    if let Some(manual) = manual {
        let others = root.get_subcommands().filter(|command| command.get_name() != "run");
        let others: Vec<_> = others.map(|command| format!("{name}-{}(1)", command.get_name())).collect();
        rest(&mut roff, manual, &others);
    }
    text.push_str(&continued(&roff.render()));
    Ok(ManPage { name, section: "8", text })
}

/// Returns the page of a command, which may be a command of another one.
fn page(command: &Command, parents: &[&str]) -> io::Result<ManPage> {
    let words = [parents, &[command.get_name()]].concat();
    let mut command = command.clone();
    if WITHOUT_CONFIG.contains(&words[0]) {
        command = command.mut_arg("config", |argument| argument.hide(true));
    }
    let command = &command;
    let name = format!("mailflow-agent-{}", words.join("-"));
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    title(&mut roff, &name, "1");
    section(&mut roff, "NAME");
    let mut letters = about.split(['.', ';', ':']).next().unwrap_or_default().chars();
    let lower = letters.next().map(|first| first.to_lowercase().chain(letters).collect::<String>());
    roff.text([roman(format!("{name} - {}", lower.unwrap_or_default()))]);
    section(&mut roff, "SYNOPSIS");
    synopsis(&mut roff, command);
    section(&mut roff, "DESCRIPTION");
    roff.text([roman(format!("{about}."))]);
    let subcommands: Vec<&Command> = command.get_subcommands().collect();
    // A command of commands has the texts of its first one.
    let of = subcommands
        .first()
        .map_or(words.join(" "), |first| format!("{} {}", words.join(" "), first.get_name()));
    let manual = manual::find(&of);
    if let Some(manual) = manual {
        paragraphs(&mut roff, manual.notes);
    }
    let mut text = roff.render();
    text.push_str(&options(command)?);
    let mut roff = Roff::new();
    let mut others = vec!["mailflow-agent(8)".to_owned(), "mailflow.yaml(5)".to_owned()];
    if !subcommands.is_empty() {
        section(&mut roff, "COMMANDS");
    }
    for subcommand in subcommands {
        entry(&mut roff, [bold(subcommand.get_name())]);
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        let page = format!("{name}-{}(1)", subcommand.get_name());
        roff.text([roman(format!("{about}. See {page}."))]);
        others.push(page);
    }
    if let Some(manual) = manual {
        rest(&mut roff, manual, &others);
    }
    text.push_str(&continued(&roff.render()));
    Ok(ManPage { name, section: "1", text })
}

/// Writes the title of a page.
pub(super) fn title(roff: &mut Roff, name: &str, section: &str) {
    roff.control("TH", [name, section, "\"\"", concat!("mailflow ", env!("CARGO_PKG_VERSION")), MANUAL]);
    // No hyphens and no stretched lines: names of pages, files and settings stay whole.
    roff.control("nh", []);
    roff.control("ad", ["l"]);
}

/// Begins a section.
pub(super) fn section(roff: &mut Roff, heading: &str) {
    roff.control("SH", [heading]);
}

/// Begins an entry of a list: the text after this one is its body.
pub(super) fn entry(roff: &mut Roff, tag: impl Into<Vec<Inline>>) {
    roff.control("TP", []);
    roff.text(tag);
}

/// Writes a list of entries.
pub(super) fn entries(roff: &mut Roff, list: &[(&str, &str)]) {
    for (tag, body) in list {
        entry(roff, [bold(*tag)]);
        roff.text([roman(*body)]);
    }
}

/// Writes lines as they are.
pub(super) fn verbatim<'a>(roff: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    roff.control("PP", []);
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

/// Writes paragraphs. One that begins with two spaces is shown as it is.
fn paragraphs(roff: &mut Roff, paragraphs: &[&str]) {
    for text in paragraphs {
        if text.starts_with("  ") {
            verbatim(roff, text.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)));
        } else {
            roff.control("PP", []);
            roff.text([roman(text.replace('`', ""))]);
        }
    }
}

/// Writes the options of a command, and its arguments.
fn synopsis(roff: &mut Roff, command: &Command) {
    let mut line = vec![bold(command.get_bin_name().unwrap_or(command.get_name()))];
    let named =
        command.get_arguments().filter(|argument| !argument.is_positional() && !argument.is_hide_set());
    for argument in named.filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version")) {
        line.push(roman(" ["));
        line.push(bold(format!("--{}", argument.get_long().unwrap_or_default())));
        line.extend(value(argument).map(|value| [roman(" "), italic(value)]).into_iter().flatten());
        line.push(roman(if repeats(argument) { "]..." } else { "]" }));
    }
    for argument in command.get_positionals() {
        let (open, close) = if argument.is_required_set() { (" ", "") } else { (" [", "]") };
        line.push(roman(open));
        line.push(italic(value(argument).unwrap_or_default()));
        line.push(roman(format!("{}{close}", if repeats(argument) { "..." } else { "" })));
    }
    if command.has_subcommands() {
        line.extend([roman(" "), italic("COMMAND"), roman(" [...]")]);
    }
    roff.text(line);
}

/// Returns the names of an argument's value.
fn value(argument: &Arg) -> Option<String> {
    let takes_value = argument.is_positional() || argument.get_action().takes_values();
    takes_value.then(|| argument.get_value_names().unwrap_or_default().join(" "))
}

/// Returns true if an argument may be given several times, or takes several values.
fn repeats(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append) && argument.get_value_delimiter().is_none()
}

/// Returns the section of the options and arguments.
fn options(command: &Command) -> io::Result<String> {
    let mut text = Vec::new();
    Man::new(command.clone()).render_options_section(&mut text)?;
    Ok(continued(&String::from_utf8_lossy(&text)))
}

/// Returns a text that begins with a section, without roff's preamble: a page needs that once.
fn continued(text: &str) -> String {
    text.split_once(".SH").map_or(String::new(), |(_, section)| format!(".SH{section}"))
}

/// Writes the sections behind the options.
fn rest(roff: &mut Roff, manual: &Manual, others: &[String]) {
    section(roff, "EXIT STATUS");
    for (status, meaning) in manual.exit_status {
        entry(roff, [bold(*status)]);
        let mut letters = meaning.chars();
        let upper = letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>());
        roff.text([roman(format!("{}.", upper.unwrap_or_default()))]);
    }
    for (heading, list) in [("FILES", manual.files), ("ENVIRONMENT", manual.environment)] {
        if !list.is_empty() {
            section(roff, heading);
            entries(roff, list);
        }
    }
    section(roff, "EXAMPLES");
    for (line, meaning) in manual.examples {
        roff.control("PP", []);
        roff.text([roman(meaning.replace('`', ""))]);
        verbatim(roff, std::iter::once(*line));
    }
    see_also(roff, others, manual.see_also);
}

/// Writes the section SEE ALSO: pages, then documents.
pub(super) fn see_also(roff: &mut Roff, others: &[String], listed: &[&str]) {
    section(roff, "SEE ALSO");
    let (documents, pages): (Vec<&str>, Vec<&str>) =
        listed.iter().partition(|name| name.starts_with("docs/"));
    let mut pages: Vec<&str> = others.iter().map(String::as_str).chain(pages).collect();
    let mut known = std::collections::HashSet::new();
    pages.retain(|page| known.insert(*page));
    let mut line = Vec::new();
    for page in pages {
        let (name, section) = page.split_once('(').unwrap_or((page, ""));
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(name), roman(format!("({section}"))]);
    }
    roff.text(line);
    if !documents.is_empty() {
        roff.control("PP", []);
        roff.text([roman("Documents of the package:")]);
    }
    for document in documents {
        roff.control("br", []);
        roff.text([italic(format!("{DOCUMENTS}{document}"))]);
    }
}
