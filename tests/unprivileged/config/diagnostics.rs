//! Errors: all at once, each once, each with its location.

use super::faults;

#[test]
fn ten_errors_print_ten_lines() {
    let text = "\
interfaces:
  - { name: eth1, role: lam }
  - { name: eth1 }
poll_intervall: 1s
timeouts: { idle: 300 }
watched_ports:
  smtp: [25, 0, 65536]
internal_networks:
  networks: [10.0.0.1/8, 192.168.0.0/16]
rules:
  - name: smtp-burst
    match: { ports: [25, 8025], protocols: [tpc] }
    window: { length: 1h }
    condition: { count: { at_least: 10 } }
    resolve: { below: 10 }
";
    assert_eq!(
        faults(text),
        [
            "f.yaml:2:25: interfaces[0].role: \"lam\": expected one of auto, lan, host, mirror; did you mean lan?",
            "f.yaml:3:13: interfaces[1].name: \"eth1\": this interface is in the list already",
            "f.yaml:4:1: poll_intervall: unknown key; did you mean poll_interval?",
            "f.yaml:5:19: timeouts.idle: \"300\": expected a duration such as 500ms, 90s, 5m, 1h or 2d; \
             the unit is missing (did you mean 300s?)",
            "f.yaml:7:14: watched_ports.smtp[1]: \"0\": expected a whole number from 1 to 65535",
            "f.yaml:7:17: watched_ports.smtp[2]: \"65536\": expected a whole number from 1 to 65535",
            "f.yaml:9:14: internal_networks.networks[0]: \"10.0.0.1/8\": host bits set; \
             did you mean 10.0.0.0/8?",
            "f.yaml:12:26: rules[0].match.ports[1]: \"8025\": this port is not in watched_ports, \
             so no flow can match",
            "f.yaml:12:45: rules[0].match.protocols[0]: \"tpc\": expected one of tcp, udp; did you mean tcp?",
            "f.yaml:15:23: rules[0].resolve.below: \"10\": expected less than condition.count.at_least: \
             at most 9",
        ]
    );
}

/// Texts with one mistake, and the beginning of its error line.
#[rustfmt::skip]
const MISTAKES: &[(&str, &str)] = &[
    ("poll_interval: 61s", r#"1:16: poll_interval: "61s": expected a duration from 100ms to 1m"#),
    ("poll_interval: 0.05s", r#"1:16: poll_interval: "0.05s": expected a duration from"#),
    ("poll_interval: [1s]", "1:16: poll_interval: a list: expected a duration"),
    ("poll_interval:", "1:14: poll_interval: nothing: expected a duration"),
    ("flow_table: 7", r#"1:13: flow_table: "7": expected a mapping"#),
    ("flow_table: { flows: many }", r#"1:22: flow_table.flows: "many": expected a whole number from 1"#),
    ("flow_table: { flows: 1.5 }", r#"1:22: flow_table.flows: "1.5": expected a whole number"#),
    (r#"flow_table: { flows: "9" }"#, r#"1:22: flow_table.flows: "9": expected a whole number"#),
    ("timeouts: { idel: 1s }", "1:13: timeouts.idel: unknown key; did you mean idle?"),
    ("timeouts: { closed: 25h }", r#"1:21: timeouts.closed: "25h": expected a duration from 100ms to 1d"#),
    ("colour: red", "1:1: colour: unknown key; expected one of gateway_name, "),
    ("interfaces: eth0", r#"1:13: interfaces: "eth0": expected a list"#),
    ("interfaces: [eth0]", r#"1:14: interfaces[0]: "eth0": expected a mapping"#),
    ("interfaces: [{ role: lan }]", "1:14: interfaces[0].name: is missing"),
    ("interfaces: [{ nam: eth0 }]", "1:16: interfaces[0].nam: unknown key; did you mean name?"),
    (r#"interfaces: [{ name: "a b" }]"#, r#"1:22: interfaces[0].name: "a b": expected the name of an interface"#),
    ("interfaces: [{ name: a/b }]", r#"1:22: interfaces[0].name: "a/b": "#),
    ("interfaces: [{ name: a234567890123456 }]", r#"1:22: interfaces[0].name: "a234567890123456": expected the name of an interface; it is longer"#),
    (r#"interfaces: [{ name: "eth[" }]"#, r#"1:22: interfaces[0].name: "eth[": expected a pattern of interface names: "#),
    (r#"interfaces: [{ name: "a/*" }]"#, r#"1:22: interfaces[0].name: "a/*": expected a pattern of interface names; no name has a slash"#),
    (r#"interfaces: [{ name: "re:^wg(" }]"#, r#"1:22: interfaces[0].name: "re:^wg(": expected a regular expression after re: ("#),
    (r#"interfaces: [{ name: "re:" }]"#, r#"1:22: interfaces[0].name: "re:": expected a regular expression after re:"#),
    (r#"interfaces: [{ name: "ppp*" }, { name: "ppp*" }]"#, r#"1:40: interfaces[1].name: "ppp*": this interface is in the list already"#),
    ("interfaces: [{ name: a, hook: xpd }]", r#"1:31: interfaces[0].hook: "xpd": expected one of auto, xdp, tc; did you mean xdp?"#),
    ("watched_ports: { smtp: 25 }", r#"1:24: watched_ports.smtp: "25": expected a list"#),
    ("watched_ports: { smtp: [twentyfive] }", r#"1:25: watched_ports.smtp[0]: "twentyfive": expected a whole number"#),
    ("watched_ports: { smpt: [25, 2525] }", "1:18: watched_ports.smpt: unknown key; did you mean smtp?"),
    ("watched_ports: { smtp: [25, 2525], pop3: [2525] }", r#"1:43: watched_ports.pop3[0]: "2525": this port is already in the list of smtp"#),
    ("watched_ports: { smtp: [25, 25] }", r#"1:29: watched_ports.smtp[1]: "25": this port is already in the list of smtp"#),
    ("watched_ports: { smtp: [] }\nrules: []\ncolor: 1", "3:1: color: unknown key"),
    ("watched_ports: { smtp: [], submission: [], smtps: [] }", "1:1: rules[0].match.ports: watched_ports has no port of these services, so no flow can match"),
    ("sources: { ipv6_prefix: 129 }", r#"1:25: sources.ipv6_prefix: "129": expected a whole number from 1 to 128"#),
    ("internal_networks: { networks: [] }", "1:20: internal_networks: expected at least one internal network"),
    (r#"internal_networks: { networks: ["!10.0.0.0/8"] }"#, "1:20: internal_networks: expected at least one internal network"),
    ("internal_networks: { networks: [10.0.0.0/8, \"!10.0.0.0/8\"] }", r#"1:45: internal_networks.networks[1]: "!10.0.0.0/8": this network is both internal and excluded; the other entry is at f.yaml:1:33"#),
    (r#"internal_networks: { networks: [10.0.0.0/8, "!10.0.0.0/8"] }"#, r#"1:45: internal_networks.networks[1]: "!10.0.0.0/8": this network is both internal and excluded"#),
    ("internal_networks: { networks: [10.0.0.0/8, !10.9.0.0/16] }", r#"1:45: internal_networks.networks[1]: "!10.9.0.0/16": YAML tags are not supported"#),
    (r#"internal_networks: { networks: ["fc00::/129"] }"#, r#"1:33: internal_networks.networks[0]: "fc00::/129": the prefix length of this address is 0 to 128"#),
    ("internal_networks: { networks: [{ cidr: 10.0.0.0/8, group: 5 }] }", r#"1:60: internal_networks.networks[0].group: "5": expected a text; put it in quotes"#),
    ("internal_networks: { networks: [{ group: a }] }", "1:33: internal_networks.networks[0].cidr: is missing"),
    ("internal_networks: { files: [/nonexistent.txt] }", r#"1:30: internal_networks.files[0]: "/nonexistent.txt": /nonexistent.txt: cannot be read: No such file"#),
    (r#"outputs: { metrics: { listen: "127.0.0.1:0" } }"#, r#"1:31: outputs.metrics.listen: "127.0.0.1:0": expected ADDRESS:PORT"#),
    ("outputs: { metrics: { listen: 10825 } }", r#"1:31: outputs.metrics.listen: "10825": expected ADDRESS:PORT, or off"#),
    ("outputs: { metrics: { max_sources: 0 } }", r#"1:36: outputs.metrics.max_sources: "0": expected a whole number from 1"#),
    ("outputs: { alerts: true }", r#"1:20: outputs.alerts: "true": expected a file"#),
    ("outputs: { alerts: { type: mail } }", r#"1:28: outputs.alerts.type: "mail": expected one of file, journal, syslog, alertmanager, webhook"#),
    ("outputs: { alerts: { path: a } }", "1:20: outputs.alerts.type: is missing"),
    ("outputs: { alerts: { type: file, path: off } }", r#"1:40: outputs.alerts.path: "off": expected a file, or -"#),
    ("outputs: { alerts: { type: file, path: a, profil: ecs } }", "1:43: outputs.alerts.profil: unknown key; did you mean profile?"),
    ("outputs: { alerts: [a, b] }", "1:24: outputs.alerts[1]: another output has the name alerts; give this one its own `name`"),
    ("outputs: { alerts: [{ type: journal, name: A }] }", r#"1:44: outputs.alerts[0].name: "A": expected a name of at most 40"#),
    ("outputs: { alerts: { type: syslog, to: \"udp:host\" } }", r#"1:40: outputs.alerts.to: "udp:host": expected HOST:PORT after the colon"#),
    ("outputs: { alerts: { type: syslog, to: \"tls:host:1\" } }", r#"1:40: outputs.alerts.to: "tls:host:1": expected unix:PATH, udp:HOST:PORT or tcp:HOST:PORT"#),
    ("outputs: { alerts: { type: syslog, to: \"udp:h:1\", facility: mial } }", r#"1:61: outputs.alerts.facility: "mial": expected one of kern"#),
    ("outputs: { alerts: { type: syslog, to: \"udp:h:1\", max_size: 100 } }", r#"1:61: outputs.alerts.max_size: "100": expected 1kB to 65507 bytes"#),
    ("gateway_name: \"a b\"", r#"1:15: gateway_name: "a b": expected auto, or at most 255 printable ASCII characters"#),
    ("gateway_name: \"\"", "1:15: gateway_name: \"\": expected auto"),
    ("outputs: { alerts: { type: alertmanager, urls: [] } }", "1:48: outputs.alerts.urls: expected at least one URL"),
    ("outputs: { alerts: { type: alertmanager, urls: [\"192.0.2.1:9093\"] } }", "1:49: outputs.alerts.urls[0]: expected http://HOST:PORT"),
    ("outputs: { alerts: { type: alertmanager, urls: [\"http://h:9093/?a=b\"] } }", "1:49: outputs.alerts.urls[0]: expected http://HOST:PORT or https://HOST:PORT, optionally with a path; a query (`?`) is not allowed"),
    ("outputs: { alerts: { type: alertmanager, urls: [\"http://h:9093#a\"] } }", "1:49: outputs.alerts.urls[0]: expected http://HOST:PORT or https://HOST:PORT, optionally with a path; `#` begins a fragment"),
    ("outputs: { alerts: { type: alertmanager, urls: [\"http://h:1\", \"http://h:1\"] } }", "1:63: outputs.alerts.urls[1]: given twice in this list"),
    ("outputs: { alerts: { type: webhook, url: \"http://h/a#b\" } }", "1:42: outputs.alerts.url: expected http://HOST:PORT/PATH or https://HOST:PORT/PATH; `#`"),
    ("outputs: { alerts: { type: webhook } }", "1:20: outputs.alerts.url: is missing"),
    ("outputs: { alerts: { type: webhook, url_file: /dev/null } }", r#"1:47: outputs.alerts.url_file: "/dev/null": is empty"#),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", timeout: 20 } }", r#"1:64: outputs.alerts.timeout: "20": expected a duration"#),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", timeout: 1h } }", r#"1:64: outputs.alerts.timeout: "1h": expected a duration from 100ms to 10m"#),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", proxy: \"socks5://u:p@h:1\" } }", "1:62: outputs.alerts.proxy: expected http://HOST:PORT or https://HOST:PORT, optionally with USER:PASSWORD@"),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", headers: { authorization: 12345 } } }", "1:81: outputs.alerts.headers.authorization: expected a text; put it in quotes"),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", tls: { server_name: \"a:1\" } } }", r#"1:75: outputs.alerts.tls.server_name: "a:1": expected a host name or an address"#),
    ("outputs: { alerts: { type: webhook, url: \"http://me:pw@host/\" } }", "1:42: outputs.alerts.url: expected http://HOST"),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", bearer_token_file: /nonexistent/x } }", r#"1:74: outputs.alerts.bearer_token_file: "/nonexistent/x": cannot be read: No such file"#),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", tls: { cert_file: /dev/null } } }", r#"1:73: outputs.alerts.tls.cert_file: "/dev/null": is empty"#),
    ("outputs: { alerts: { type: webhook, url: \"http://h/\", headers: { \"a b\": c } } }", "1:73: outputs.alerts.headers.a b: not a valid HTTP header"),
    ("outputs: { flow_log: { type: ipfix, to: \"sctp:h:4739\" } }", r#"1:41: outputs.flow_log.to: "sctp:h:4739": expected udp:HOST:PORT or tcp:HOST:PORT"#),
    ("outputs: { flow_log: { type: journal } }", r#"1:30: outputs.flow_log.type: "journal": expected one of file, ipfix"#),
    ("outputs: { metrics: { web_config: /nonexistent/web.yml } }", r#"1:35: outputs.metrics.web_config: "/nonexistent/web.yml": cannot be read: No such file"#),
    ("outputs: { metrics: { max_windows: 0 } }", r#"1:36: outputs.metrics.max_windows: "0": expected a whole number from 1"#),
    (
        "watched_ports: { smtp: [], submission: [], smtps: [], pop3: [], pop3s: [], imap: [], imaps: [] }\nrules: []",
        "1:16: watched_ports: expected at least one port",
    ),
    ("sources: {}\nsources: {}", r#"2:1: "sources": this key was given before, at 1:1"#),
    ("sources: {}\n---\nsources: {}", "2:1: a second YAML document"),
    ("sources: *x", "1:10: sources: not YAML: while parsing node, found unknown anchor"),
    ("sources:\n\tipv6_prefix: 64", "2:"),
    ("sources: {", "1:11: sources: not YAML"),
    ("a\0b", "1:2: NUL byte"),
    ("", "1:1: the file is empty"),
    ("[]", "1:1: a list: expected a mapping"),
    ("~", "1:1: nothing: expected a mapping"),
    ("timeouts: !x { idle: 1 }", r#"1:11: timeouts: "!x": YAML tags"#),
    ("!x sources: {}", r#"1:1: "!x": YAML tags"#),
    ("sources: { <<: 5 }", r#"1:16: sources: "5": only a mapping can be merged"#),
];

#[test]
fn duplicate_signature_id_is_an_error() {
    let rule = |name: &str| {
        format!(
            "  - {{ name: {name}, match: {{}}, window: {{ length: 1h }}, condition: {{ count: {{ at_least: 5 }} }} }}\n"
        )
    };
    assert_only(
        &format!("rules:\n{}{}", rule("rule-32930"), rule("rule-38803")),
        r#"3:13: rules[1].name: "rule-38803": the rule rule-32930 has the same signature_id (1102046464)"#,
    );
}

#[test]
fn each_mistake_gives_one_line() {
    MISTAKES.iter().for_each(|(text, line)| assert_only(text, line));
}

/// Checks the same mistakes inside a rule that is valid otherwise.
#[test]
#[rustfmt::skip]
fn each_mistake_in_a_rule_gives_one_line() {
    let rule = |rest: &str| {
        format!(
            "rules:\n  - name: r\n    match: {{}}\n    window: {{ length: 1h }}\n    \
             condition: {{ count: {{ at_least: 5 }} }}\n{rest}"
        )
    };
    for (text, line) in [
        (rule("    severity: hihg\n"), r#"6:15: rules[0].severity: "hihg": expected one of low, medium, high, critical; did you mean high?"#),
        (rule("    enabled: maybe\n"), r#"6:14: rules[0].enabled: "maybe": expected true or false"#),
        (rule("    version: 0\n"), r#"6:14: rules[0].version: "0": expected a whole number from 1"#),
        (rule("    group_by: [client]\n"), r#"6:16: rules[0].group_by[0]: "client": expected [source], [source, destination], [destination] or [group]"#),
        (rule("    labels: { team: 5 }\n"), r#"6:21: rules[0].labels.team: "5": expected a text; put it in quotes"#),
        (rule("    attack: [T1048.3]\n"), r#"6:14: rules[0].attack[0]: "T1048.3": expected a MITRE ATT&CK technique"#),
        (rule("    repeat_interval: 0s\n"), r#"6:22: rules[0].repeat_interval: "0s": expected a duration from 1s to 30d"#),
        (rule("    resolve: { below: 5 }\n"), r#"6:23: rules[0].resolve.below: "5": expected less than condition.count.at_least: at most 4"#),
        (rule("    resolve: { below: 0 }\n"), r#"6:23: rules[0].resolve.below: "0": expected a whole number from 1"#),
        (rule("").replace("length", "lenght"), "4:15: rules[0].window.lenght: unknown key; did you mean length?"),
        (rule("").replace("count", "sum"), "5:23: rules[0].condition.sum.of: is missing"),
        (rule("").replace("name: r", "name: a rule"), r#"2:11: rules[0].name: "a rule": expected a name"#),
        (rule("").replace("{}", "{ ports: [] }"), "3:21: rules[0].match.ports: an empty list"),
        (rule("").replace("{}", "{ ports: [25, 25] }"), r#"3:26: rules[0].match.ports[1]: "25": given twice"#),
        (rule("").replace("{}", "{ ports: [smtp, smtp] }"), r#"3:28: rules[0].match.ports[1]: "smtp": given twice"#),
        (rule("").replace("{}", "{ ports: [smpt] }"), r#"3:22: rules[0].match.ports[0]: "smpt": expected a whole number from 1 to 65535, or a service (smtp, submission, smtps, pop3, pop3s, imap, imaps); did you mean smtp?"#),
        (rule("").replace("{}", "{ ports: [0] }"), r#"3:22: rules[0].match.ports[0]: "0": expected a whole number from 1 to 65535"#),
        (rule("").replace("{}", "{ ports: smtp }"), r#"3:21: rules[0].match.ports: "smtp": expected a list"#),
        (rule("").replace("{}", "{ applications: [unseen] }"), r#"3:29: rules[0].match.applications[0]: "unseen": expected one of smtp, "#),
        (rule("").replace("{}", "{ size: { test: ration } }"), r#"3:28: rules[0].match.size.test: "ration": expected one of ratio, count, either, data_ratio, up_only; did you mean ratio?"#),
        (rule("  - name: r\n    match: {}\n    window: { length: 1h }\n    condition: { count: { at_least: 5 } }\n"), r#"6:11: rules[1].name: "r": another rule has this name"#),
    ] {
        assert_only(&text, line);
    }
}

fn assert_only(text: &str, line: &str) {
    let found = faults(text);
    assert!(
        found.len() == 1 && found[0].starts_with(&format!("f.yaml:{line}")),
        "{text}\nexpected {line}\nfound {found:#?}"
    );
}
