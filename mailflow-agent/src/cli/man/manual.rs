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

const GOOD: (&str, &str) = ("0", "success");
const BAD_USAGE: (&str, &str) = ("2", "wrong usage or an invalid configuration");
const CLIENT: &[(&str, &str)] = &[GOOD, ("1", "the agent does not answer"), BAD_USAGE];
const FLOW_LOG_CLIENT: &[(&str, &str)] =
    &[GOOD, ("1", "the agent does not answer, or a log cannot be read completely"), BAD_USAGE];

const CONFIGURATION: (&str, &str) = (
    "/etc/mailflow/mailflow.yaml",
    "Configuration file of the service, which passes it with --config. See mailflow.yaml(5).",
);
const SOCKET: (&str, &str) = (
    "/run/mailflow/agent.sock",
    "Default control socket of the agent. The setting control.socket changes it; the commands use the socket of \
     --socket, if given.",
);
const EXAMPLE_CONFIGURATION: (&str, &str) = (
    "/usr/share/doc/mailflow-agent/examples/mailflow.yaml",
    "The built-in configuration, which contains every setting with its default.",
);
const TEMPORARY: (&str, &str) = (
    "/var/tmp",
    "Default folder of the temporary files for sorting records. The files have no name. TMPDIR sets another folder.",
);

const LOG_FILTER: (&str, &str) = (
    "RUST_LOG",
    "Levels of the log on standard error, in the syntax of Rust's tracing-subscriber. The default is \
     info,kernel=trace.",
);
const TMPDIR: (&str, &str) = ("TMPDIR", "Folder of temporary files. The default is /var/tmp.");

const EXPLAIN_NOTE: &str = "The command queries the running agent about its 16,384 newest flows. With --log, it needs \
     no agent: it evaluates the rules of --config on all flows of the logs, and prints the state at the end of the logs.";

/// Manuals of all commands.
const MANUALS: &[Manual] = &[
    Manual {
        command: "run",
        notes: &[
            "The agent needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. After it has \
             attached its programs, it drops every capability that it no longer needs. Options have precedence over \
             settings of the configuration.",
        ],
        exit_status: &[
            ("0", "a signal stopped the agent"),
            ("1", "a failure at run time"),
            ("2", "wrong usage or an invalid configuration, which a restart does not correct"),
        ],
        examples: &[
            (
                "sudo mailflow-agent run --interface eth1",
                "Counts the packets of eth1, and prints alerts as JSON lines. No configuration file is needed.",
            ),
            (
                "sudo mailflow-agent run --interface eth1 --role lan --flow-log flows.json --alerts alerts.json --state off",
                "Writes flow records and alerts to files, and keeps no state for the next run.",
            ),
            (
                "mailflow-agent run --config /etc/mailflow/mailflow.yaml --keep",
                "Runs the agent as the unit mailflow-agent.service does. During a restart, the programs stay \
                 attached and continue to count.",
            ),
        ],
        files: &[
            CONFIGURATION,
            EXAMPLE_CONFIGURATION,
            SOCKET,
            (
                "/var/lib/mailflow/",
                "State of the agent: checkpoint, journal, history and dead letters (state.directory). Other users \
                 cannot read it.",
            ),
            ("/sys/fs/bpf/mailflow/", "Pinned maps and links (state.pins)."),
            ("/var/log/mailflow/", "Alerts and flow records, in the configuration of the package."),
            ("/etc/logrotate.d/mailflow-agent", "logrotate configuration for /var/log/mailflow/*.json."),
            ("/usr/lib/systemd/system/mailflow-agent.service", "systemd unit of the service."),
            (DOCUMENTS, "Documents (folder docs) and examples (folder examples) of the package."),
        ],
        environment: &[
            LOG_FILTER,
            (
                "HTTPS_PROXY, HTTP_PROXY, NO_PROXY",
                "Proxies for Alertmanagers and webhooks that are configured with proxy: environment. The names may \
                 be in upper or lower case. See mailflow.yaml(5).",
            ),
            (
                "SSL_CERT_FILE, SSL_CERT_DIR",
                "Certificates of authorities that are trusted instead of the system's authorities, if tls.ca_file \
                 is not configured.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
                "Set by systemd. The agent uses them to report to systemd that it is ready, is reloading, or is \
                 alive.",
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
            "The command runs the kernel program on the packets of the captures. Therefore it needs the same \
             capabilities as run, but no interface. It writes alerts only to files and standard output.",
        ],
        exit_status: &[
            GOOD,
            ("1", "a capture cannot be read completely, or a failure at run time"),
            BAD_USAGE,
        ],
        examples: &[
            (
                "sudo mailflow-agent replay mail.pcap --flow-log - --alerts off",
                "Prints the flow records of a capture.",
            ),
            (
                "sudo mailflow-agent replay monday.pcapng.gz tuesday.pcapng.gz --ports 25,587,2525 --drain",
                "Counts flows to the given ports in two captures, prints alerts, and continues until every window \
                 has expired.",
            ),
        ],
        files: &[CONFIGURATION],
        environment: &[LOG_FILTER],
        see_also: &["mailflow-agent-backtest(1)", "docs/integrate/events.md"],
    },
    Manual {
        command: "backtest",
        notes: &[
            "The command recognises the format of each file by its content. Files may be compressed with gzip. The \
             formats are mailflow's own flow lines, Suricata's EVE flow lines, and Zeek's conn.log, open_conn.log \
             and conn_long.log as columns or as JSON. JSON may also be embedded in the lines of Filebeat or \
             Elasticsearch. The order of files and lines does not matter.",
            "The command sorts records by time, in at most 256 MiB of memory. Each further record takes about 70 \
             bytes in a temporary file without a name, in TMPDIR or else in /var/tmp.",
            "If a log lacks fields that a rule needs, the command reports this rule as not evaluable, with the \
             number of records. If lines cannot be read, the command shows the first line for each reason, and \
             counts the others. It evaluates the remaining lines, and exits with status 1.",
        ],
        exit_status: &[
            GOOD,
            ("1", "a log cannot be read completely, or contains lines that cannot be read"),
            BAD_USAGE,
        ],
        examples: &[
            (
                "mailflow-agent backtest /var/log/mailflow/flows.json* --config new-rules.yaml",
                "Prints the alerts that new rules would have raised.",
            ),
            (
                "mailflow-agent backtest conn.*.log.gz --alerts would-have-been.json --drain",
                "Writes the alerts for logs of Zeek to a file, and continues until every window has expired.",
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
        notes: &[
            "The command also reads the files that a configuration refers to (networks, certificates, secrets).",
        ],
        exit_status: &[
            ("0", "no file has an error (warnings do not change the status)"),
            ("1", "the output cannot be written"),
            ("2", "wrong usage, or a file has errors"),
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
            "A file contains tests, and the rules to test or `config: FILE`. If both are missing, the shipped rules \
             are tested. For example:",
            "  tests:\n    - name: ten mails in ten minutes\n      flows:\n        - { source: 10.0.0.1, destination: \
             9.9.9.9, repeat: { times: 10, every: 1m } }\n      alerts:\n        - { rule: smtp-burst, source: \
             10.0.0.1, at: 9m }",
            "A test fails if an expected alert is missing, or if there is an unexpected alert. mailflow-rules(5) \
             describes the format.",
        ],
        exit_status: &[
            ("0", "all tests pass"),
            ("1", "a test failed"),
            ("2", "wrong usage, or a file has errors"),
        ],
        examples: &[(
            "mailflow-agent rules test /usr/share/doc/mailflow-agent/examples/rules/tests/*.yaml",
            "Runs the tests of the shipped rules and of the example rules.",
        )],
        files: &[(
            "/usr/share/doc/mailflow-agent/examples/rules/",
            "Example rules, and tests of the example rules and of the shipped rules.",
        )],
        environment: &[],
        see_also: &["mailflow-rules(5)", "mailflow-agent-backtest(1)", "docs/rules/tutorial.md"],
    },
    Manual {
        command: "print-config",
        notes: &[
            "Without a file, the command prints the built-in configuration with its comments. For a file, it hides \
             secrets: it prints addresses only up to the port, and headers without values.",
        ],
        exit_status: &[
            GOOD,
            ("1", "the output cannot be written"),
            ("2", "wrong usage, or the file has errors"),
        ],
        examples: &[
            ("mailflow-agent print-config", "Prints every setting with its default value and a description."),
            (
                "mailflow-agent print-config /etc/mailflow/mailflow.yaml",
                "Prints the configuration of the service without secrets, for example for a bug report.",
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
                "the agent does not answer, a program is not attached, packets are missing, the agent rejected the \
                 last configuration or the changed lists of networks, it cannot write its state, or a receiver \
                 rejects alerts",
            ),
            ("2", "wrong usage or an invalid configuration"),
        ],
        examples: &[
            ("sudo mailflow-agent status", "Prints the state of the agent, its rules, alerts and outputs."),
            (
                "sudo mailflow-agent status --json --config /etc/mailflow/mailflow.yaml",
                "Prints the state as JSON. The configuration defines the socket.",
            ),
        ],
        files: &[SOCKET],
        environment: &[],
        see_also: &["mailflow-agent-top(1)", "mailflow-agent-doctor(1)", "docs/operate/control.md"],
    },
    Manual {
        command: "top",
        notes: &[
            "The keys p, b, f, m, c and s sort by packets, bytes, flows, messages, flows counted by a rule, and \
             source. A second press reverses the order. d switches between totals since the start of the agent and \
             rates per second. / sets a filter, and Esc clears it. Up, Down, PgUp, PgDn and Home scroll. Space \
             updates the table, and q quits.",
            "The numbers count the direction from client to server. Sources beyond outputs.metrics.max_sources are \
             summed in `other`, and sources that were idle for a day in `retired`.",
        ],
        exit_status: CLIENT,
        examples: &[
            ("sudo mailflow-agent top", "Shows the traffic of all sources, sorted by bytes."),
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
            "The agent applies the new configuration completely or not at all. If there are errors, or changes that \
             need a restart, the command prints them, and the agent keeps its configuration. SIGHUP also reloads \
             the configuration; the agent then logs the result.",
        ],
        exit_status: &[
            ("0", "the new configuration is in force"),
            ("1", "the agent rejected the new configuration, or does not answer"),
            ("2", "wrong usage or an invalid configuration"),
        ],
        examples: &[(
            "sudo mailflow-agent reload --config /etc/mailflow/mailflow.yaml",
            "Reloads the configuration of the service. `systemctl reload mailflow-agent` checks the configuration \
             first.",
        )],
        files: &[CONFIGURATION, SOCKET],
        environment: &[],
        see_also: &["mailflow-agent-check-config(1)", "docs/operate/control.md"],
    },
    Manual {
        command: "completions",
        notes: &["The package installs the completion scripts for bash, zsh and fish."],
        exit_status: &[GOOD, ("1", "the output cannot be written"), ("2", "wrong usage")],
        examples: &[(
            "mailflow-agent completions bash > ~/.local/share/bash-completion/completions/mailflow-agent",
            "Installs the completion script for one user.",
        )],
        files: &[],
        environment: &[],
        see_also: &[],
    },
    Manual {
        command: "man",
        notes: &[
            "The command writes into the subfolders man1, man5 and man8 of the folder, as in /usr/share/man.",
        ],
        exit_status: &[GOOD, ("1", "a page cannot be written"), ("2", "wrong usage")],
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
                "Prints the values of each rule's windows for the source, and why each of its newest flows counts \
                 or does not count.",
            ),
            (
                "mailflow-agent explain fd00::/64 --log flows.json --flows 100 --config new-rules.yaml",
                "Prints the same information from a flow log and with other rules, without an agent.",
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
            "The command prints entries for the setting `allow` of the configuration. It proposes sources that \
             delivered mail in at least 20 sessions to 10 servers or more, if most of their sessions delivered \
             mail. It also proposes submission servers that 5 sources or more use.",
        ],
        exit_status: FLOW_LOG_CLIENT,
        examples: &[
            ("sudo mailflow-agent suggest", "Prints entries for the newest flows of the running agent."),
            ("mailflow-agent suggest --log flows.json", "Prints entries for the flows of a flow log."),
        ],
        files: &[SOCKET, TEMPORARY],
        environment: &[TMPDIR],
        see_also: &["mailflow-agent-explain(1)", "mailflow-rules(5)", "docs/rules/tuning.md"],
    },
    Manual {
        command: "doctor",
        notes: &[
            "The command prints a line for each finding: ok, warn (counts may be incomplete, or a setting is not \
             the best one) or bad (the agent cannot work in this state). The line after a warn or bad \
             finding recommends an action. The command also queries the running agent at its socket. Run it as root, \
             because some checks need root.",
        ],
        exit_status: &[("0", "no finding is bad"), ("1", "a finding is bad"), BAD_USAGE],
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
        exit_status: &[GOOD, ("1", "the output cannot be written"), ("2", "wrong usage")],
        examples: &[("mailflow-agent version", "Prints the name and the version of the program.")],
        files: &[],
        environment: &[],
        see_also: &[],
    },
];
