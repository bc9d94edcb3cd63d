//! Texts of the commands beyond their arguments: `--help` ends with them, and man pages have sections of them.

/// Texts of `--help` and of the man page of a command, besides its arguments.
pub(super) struct Manual {
    /// Words of the command, such as `rules test`.
    pub(super) command: &'static str,
    /// Paragraphs. One that begins with two spaces is shown as it is.
    pub(super) notes: &'static [&'static str],
    /// Exit statuses and their meanings.
    pub(super) exit_status: &'static [(&'static str, &'static str)],
    /// Command lines and what they do.
    pub(super) examples: &'static [(&'static str, &'static str)],
    /// Paths and their contents.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// Environment variables and their meanings.
    pub(super) environment: &'static [(&'static str, &'static str)],
    /// Other pages, such as `mailflow-agent-status(1)`, and documents of the package (`docs/...`).
    pub(super) see_also: &'static [&'static str],
}

/// Folder of the package's documents.
pub(super) const DOCUMENTS: &str = "/usr/share/doc/mailflow-agent/";

/// Returns the text behind the options in `--help`. Tests find a manual for every command.
pub(crate) fn help(command: &str) -> String {
    let Some(manual) = find(command) else { return String::new() };
    let mut parts: Vec<String> = manual.notes.iter().map(|note| (*note).to_owned()).collect();
    let lines: Vec<String> = manual.examples.iter().map(|(line, _)| format!("\n  {line}")).collect();
    parts.push(format!("Examples:{}", lines.concat()));
    let statuses: Vec<String> =
        manual.exit_status.iter().map(|(status, meaning)| format!("{status} {meaning}")).collect();
    parts.push(format!("Exit status: {}.", statuses.join("; ")));
    parts.join("\n\n")
}

/// Returns the manual of a command.
pub(super) fn find(command: &str) -> Option<&'static Manual> {
    MANUALS.iter().find(|manual| manual.command == command)
}

const GOOD: (&str, &str) = ("0", "good");
const BAD_USAGE: (&str, &str) = ("2", "bad usage or configuration");
const CLIENT: &[(&str, &str)] = &[GOOD, ("1", "the agent does not answer"), BAD_USAGE];
const FLOW_LOG_CLIENT: &[(&str, &str)] =
    &[GOOD, ("1", "the agent does not answer, or a log could not be read to its end"), BAD_USAGE];

const CONFIGURATION: (&str, &str) =
    ("/etc/mailflow/mailflow.yaml", "Configuration of the service, with --config: mailflow.yaml(5).");
const SOCKET: (&str, &str) = (
    "/run/mailflow/agent.sock",
    "Control socket of the running agent, unless control.socket or --socket names another.",
);
const EXAMPLE_CONFIGURATION: (&str, &str) = (
    "/usr/share/doc/mailflow-agent/examples/mailflow.yaml",
    "The built-in configuration: every setting with its default.",
);
const TEMPORARY: (&str, &str) = (
    "/var/tmp",
    "Folder of temporary files of sorted records, which have no name, unless TMPDIR names another.",
);

const LOG_FILTER: (&str, &str) = (
    "RUST_LOG",
    "Levels of the log on standard error, in the form of Rust's tracing-subscriber. The default is info,kernel=trace.",
);
const TMPDIR: (&str, &str) = ("TMPDIR", "Folder of temporary files. The default is /var/tmp.");

const EXPLAIN_NOTE: &str = "The running agent explains its 16,384 newest flows. With --log no agent is needed: the rules of \
     --config are evaluated on all flows of the logs, and the output is the state at their end.";

/// Manuals of all commands.
const MANUALS: &[Manual] = &[
    Manual {
        command: "run",
        notes: &[
            "Needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root, and gives them up once it counts. \
             Options replace settings of the configuration.",
        ],
        exit_status: &[
            ("0", "a signal stopped the agent"),
            ("1", "failure at run time"),
            ("2", "bad usage or configuration, which does not pass by itself"),
        ],
        examples: &[
            (
                "sudo mailflow-agent run --interface eth1",
                "Counts what passes eth1, and prints alerts as JSON lines. Nothing needs to be configured.",
            ),
            (
                "sudo mailflow-agent run --interface eth1 --role lan --flow-log flows.json --alerts alerts.json --state off",
                "The same with files, and without state for the next run.",
            ),
            (
                "mailflow-agent run --config /etc/mailflow/mailflow.yaml --keep",
                "What the unit mailflow-agent.service runs: a restart leaves the kernel's programs counting.",
            ),
        ],
        files: &[
            CONFIGURATION,
            EXAMPLE_CONFIGURATION,
            SOCKET,
            (
                "/var/lib/mailflow/",
                "State: checkpoint, journal, history and dead letters (state.directory). No other user may read it.",
            ),
            ("/sys/fs/bpf/mailflow/", "Pinned maps and links (state.pins)."),
            ("/var/log/mailflow/", "Alerts and flow records, as configured by the package."),
            ("/etc/logrotate.d/mailflow-agent", "Rotation of /var/log/mailflow/*.json."),
            ("/usr/lib/systemd/system/mailflow-agent.service", "The unit."),
            (DOCUMENTS, "Documents (docs) and examples (examples) of the package."),
        ],
        environment: &[
            LOG_FILTER,
            (
                "HTTPS_PROXY, HTTP_PROXY, NO_PROXY",
                "Proxies for Alertmanagers and webhooks with proxy: environment, in upper or lower case: mailflow.yaml(5).",
            ),
            (
                "SSL_CERT_FILE, SSL_CERT_DIR",
                "Certificates of authorities to trust instead of the system's, where no tls.ca_file is configured.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
                "Set by systemd: where the agent reports that it is ready, reloads and is alive.",
            ),
        ],
        see_also: &[
            "systemctl(1)",
            "journalctl(1)",
            "docs/README.md",
            "docs/start/first-week.md",
            "docs/operate/restart.md",
            "docs/operate/security.md",
            "docs/operate/troubleshooting.md",
            "docs/integrate/metrics.md",
        ],
    },
    Manual {
        command: "replay",
        notes: &[
            "Runs the kernel program on the packets of the captures, so it needs the capabilities of run, but no \
             interface. Alerts go to files and standard output only.",
        ],
        exit_status: &[GOOD, ("1", "a capture cannot be read to its end, or failure at run time"), BAD_USAGE],
        examples: &[
            (
                "sudo mailflow-agent replay mail.pcap --flow-log - --alerts off",
                "Prints the flow records of a capture.",
            ),
            (
                "sudo mailflow-agent replay monday.pcapng.gz tuesday.pcapng.gz --ports 25,587,2525 --drain",
                "Prints the alerts of two captures, for these ports, until every window has expired.",
            ),
        ],
        files: &[CONFIGURATION],
        environment: &[LOG_FILTER],
        see_also: &["mailflow-agent-backtest(1)", "docs/integrate/events.md"],
    },
    Manual {
        command: "backtest",
        notes: &[
            "Formats, each file recognised by what is in it, plain or gzip: mailflow's own flow lines, Suricata's EVE \
             flow lines, Zeek's conn.log, open_conn.log and conn_long.log as columns or as JSON; as JSON also within \
             lines of Filebeat or Elasticsearch. The order of files and lines does not matter.",
            "Records that wait to be sorted take up to 256 MiB of memory; beyond that, about 70 bytes a record in a \
             temporary file without a name, in TMPDIR or else in /var/tmp.",
            "A rule that needs fields that a log lacks is reported as not evaluable, with the number of records. For \
             lines that cannot be read, the first line of each reason is shown and the others are counted. The other \
             lines are evaluated, and the exit status is 1.",
        ],
        exit_status: &[
            GOOD,
            ("1", "a log could not be read to its end, or has lines that cannot be read"),
            BAD_USAGE,
        ],
        examples: &[
            (
                "mailflow-agent backtest /var/log/mailflow/flows.json* --config new-rules.yaml",
                "Prints the alerts that new rules would have raised.",
            ),
            (
                "mailflow-agent backtest conn.*.log.gz --alerts would-have-been.json --drain",
                "Writes the alerts of Zeek's logs to a file, and continues until every window has expired.",
            ),
        ],
        files: &[CONFIGURATION, TEMPORARY],
        environment: &[TMPDIR, LOG_FILTER],
        see_also: &[
            "mailflow-agent-explain(1)",
            "mailflow-agent-rules-test(1)",
            "mailflow-rules(5)",
            "docs/rules/backtest.md",
        ],
    },
    Manual {
        command: "check-config",
        notes: &["Files that the configuration names (networks, certificates, secrets) are read too."],
        exit_status: &[
            ("0", "every file is good, warnings aside"),
            ("1", "the output cannot be written"),
            ("2", "bad usage, or a file has errors"),
        ],
        examples: &[
            (
                "mailflow-agent check-config /etc/mailflow/mailflow.yaml",
                "Checks the configuration of the service before it is reloaded.",
            ),
            ("mailflow-agent check-config", "Checks the built-in configuration."),
        ],
        files: &[CONFIGURATION],
        environment: &[],
        see_also: &["mailflow-agent-print-config(1)", "mailflow-agent-reload(1)", "mailflow-rules(5)"],
    },
    Manual {
        command: "rules test",
        notes: &[
            "A file has the rules (or `config: FILE`, or neither for the shipped ones) and tests:",
            "  tests:\n    - name: ten mails in ten minutes\n      flows:\n        - { source: 10.0.0.1, destination: \
             9.9.9.9, repeat: { times: 10, every: 1m } }\n      alerts:\n        - { rule: smtp-burst, source: \
             10.0.0.1, at: 9m }",
            "A test fails if an expected alert is missing, or if there is an unexpected alert. mailflow-rules(5) has \
             the format.",
        ],
        exit_status: &[
            ("0", "all tests pass"),
            ("1", "a test failed"),
            ("2", "bad usage, or a file has errors"),
        ],
        examples: &[(
            "mailflow-agent rules test /usr/share/doc/mailflow-agent/examples/rules/tests/*.yaml",
            "Runs the tests of the shipped rules and of the example rules.",
        )],
        files: &[(
            "/usr/share/doc/mailflow-agent/examples/rules/",
            "Example rules, and tests of these and of the shipped rules.",
        )],
        environment: &[],
        see_also: &["mailflow-rules(5)", "mailflow-agent-backtest(1)", "docs/rules/tutorial.md"],
    },
    Manual {
        command: "print-config",
        notes: &[
            "Without a file it is the built-in configuration with its comments. Of a file, addresses end after the \
             port, and headers have no values.",
        ],
        exit_status: &[
            GOOD,
            ("1", "the output cannot be written"),
            ("2", "bad usage, or the file has errors"),
        ],
        examples: &[
            ("mailflow-agent print-config", "Prints every setting with its default and its meaning."),
            (
                "mailflow-agent print-config /etc/mailflow/mailflow.yaml",
                "Prints the configuration of the service for a report.",
            ),
        ],
        files: &[CONFIGURATION],
        environment: &[],
        see_also: &["mailflow-agent-check-config(1)"],
    },
    Manual {
        command: "status",
        notes: &[],
        exit_status: &[
            ("0", "the agent answers, counts, and reports no problem"),
            (
                "1",
                "it does not answer, a program is not attached, packets are missing, the last configuration or the \
                 changed lists of networks were refused, the state on the disk is not written, or a receiver refuses \
                 alerts",
            ),
            ("2", "bad usage or configuration"),
        ],
        examples: &[
            ("sudo mailflow-agent status", "Prints the state of the agent, its rules, alerts and outputs."),
            (
                "sudo mailflow-agent status --json --config /etc/mailflow/mailflow.yaml",
                "The same for a program, at the socket that the configuration names.",
            ),
        ],
        files: &[SOCKET],
        environment: &[],
        see_also: &["mailflow-agent-top(1)", "mailflow-agent-doctor(1)", "docs/operate/control.md"],
    },
    Manual {
        command: "top",
        notes: &[
            "Keys: p packets, b bytes, f flows, m messages, c counted by a rule, s source; the same key again reverses \
             the order. d: total since the agent started, or per second. /: filter, Esc: clear the filter. Up, Down, \
             PgUp, PgDn, Home: scroll. Space: update now. q: quit.",
            "Numbers are client to server. Sources beyond the cap are summed in `other`, those idle for a day in \
             `retired`.",
        ],
        exit_status: CLIENT,
        examples: &[
            ("sudo mailflow-agent top", "Shows all sources, those with the most bytes first."),
            (
                "sudo mailflow-agent top --once --sort messages --rows 10",
                "Prints the ten sources with the most messages.",
            ),
        ],
        files: &[SOCKET],
        environment: &[],
        see_also: &["mailflow-agent-status(1)", "mailflow-agent-explain(1)", "docs/operate/control.md"],
    },
    Manual {
        command: "reload",
        notes: &[
            "A new configuration is applied completely or not at all. Errors, and changes that need a restart, are \
             printed, and the agent keeps its configuration. SIGHUP reloads the configuration too; the agent then logs \
             the result.",
        ],
        exit_status: &[
            ("0", "in force"),
            ("1", "refused, or the agent does not answer"),
            ("2", "bad usage or configuration"),
        ],
        examples: &[(
            "sudo mailflow-agent reload --config /etc/mailflow/mailflow.yaml",
            "Reloads the configuration of the service, as `systemctl reload mailflow-agent` does after a check.",
        )],
        files: &[CONFIGURATION, SOCKET],
        environment: &[],
        see_also: &["mailflow-agent-check-config(1)", "docs/operate/control.md"],
    },
    Manual {
        command: "completions",
        notes: &["The package installs those of bash, zsh and fish."],
        exit_status: &[GOOD, ("1", "the output cannot be written"), ("2", "bad usage")],
        examples: &[(
            "mailflow-agent completions bash > ~/.local/share/bash-completion/completions/mailflow-agent",
            "Installs the completions for one user.",
        )],
        files: &[],
        environment: &[],
        see_also: &[],
    },
    Manual {
        command: "man",
        notes: &["The folder gets subfolders man1, man5 and man8, as below /usr/share/man."],
        exit_status: &[GOOD, ("1", "a page cannot be written"), ("2", "bad usage")],
        examples: &[
            ("mailflow-agent man ~/.local/share/man", "Installs the pages for one user."),
            ("sudo mailflow-agent man /usr/local/share/man", "Installs the pages for every user."),
        ],
        files: &[],
        environment: &[],
        see_also: &["man(1)"],
    },
    Manual {
        command: "explain",
        notes: &[EXPLAIN_NOTE],
        exit_status: FLOW_LOG_CLIENT,
        examples: &[
            (
                "sudo mailflow-agent explain 10.20.0.2",
                "Prints what each rule's windows hold for the source, and why each of its newest flows counts or not.",
            ),
            (
                "mailflow-agent explain fd00::/64 --log flows.json --flows 100 --config new-rules.yaml",
                "The same of a flow log and other rules, without an agent.",
            ),
        ],
        files: &[SOCKET, TEMPORARY],
        environment: &[TMPDIR],
        see_also: &["mailflow-agent-suggest(1)", "mailflow-agent-backtest(1)", "docs/operate/alerts.md"],
    },
    Manual {
        command: "suggest",
        notes: &[
            EXPLAIN_NOTE,
            "The entries are for `allow` of the configuration: sources that delivered mail in at least 20 sessions to \
             10 servers or more, most of them accepted, and submission servers that 5 sources or more use.",
        ],
        exit_status: FLOW_LOG_CLIENT,
        examples: &[
            ("sudo mailflow-agent suggest", "Prints entries for what the running agent has seen."),
            ("mailflow-agent suggest --log flows.json", "Prints entries for a flow log."),
        ],
        files: &[SOCKET, TEMPORARY],
        environment: &[TMPDIR],
        see_also: &["mailflow-agent-explain(1)", "mailflow-rules(5)", "docs/rules/tuning.md"],
    },
    Manual {
        command: "doctor",
        notes: &[
            "One line for each finding: ok, warn (counts may be incomplete, or something can be improved) or bad (the \
             agent does not work correctly), and what to do. The running agent is queried too, at its socket. Run it \
             as root: some checks need it.",
        ],
        exit_status: &[("0", "nothing is bad"), ("1", "something is"), BAD_USAGE],
        examples: &[
            (
                "sudo mailflow-agent doctor --interface eth1 --role lan",
                "Checks the machine and an interface before the first start.",
            ),
            (
                "sudo mailflow-agent doctor --config /etc/mailflow/mailflow.yaml --json",
                "Checks the machine for the configuration of the service.",
            ),
        ],
        files: &[CONFIGURATION, SOCKET],
        environment: &[],
        see_also: &["mailflow-agent-status(1)", "docs/operate/doctor.md", "docs/operate/troubleshooting.md"],
    },
    Manual {
        command: "version",
        notes: &[],
        exit_status: &[GOOD, ("1", "the output cannot be written"), ("2", "bad usage")],
        examples: &[("mailflow-agent version", "Prints the name and the version.")],
        files: &[],
        environment: &[],
        see_also: &[],
    },
];
