//! Valid configurations: defaults, shipped values, and the meaning of settings.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mailflow_agent::{
    config::{
        self, AlertDestination, AlertOutput, ClientTls, Config, Credentials, DeadLetters, FlowDestination,
        FlowOutput, Hook, Interface, Ipfix, IpfixDestination, Outputs, Profile, Proxy, Receiver, Role,
        Syslog, SyslogDestination, SyslogMessage, Target, WebhookAddress,
        outputs::url::{Url, UrlForm},
    },
    util::disk::{FileLimits, Reserve},
};
use mailflow_common::App;
use mailflow_engine::{
    event::Severity,
    network::{AddressSet, Member},
    settings::{
        Condition, FlowClass, GroupBy, Layer, Match, Measure, Rule, Service, SizeKind, SizeTest, Term,
        Thresholds, Timeouts, Transport, Window, WindowKind,
    },
};
use mailflow_test_support::lab::workspace;

use super::{faults, good, warnings_but_of_replaced_rules};

/// Compares configurations by their debug output, as `Config` has no equality.
fn same(a: &Config, b: &Config) {
    assert_eq!(format!("{a:#?}"), format!("{b:#?}"));
}

fn shipped() -> Config {
    config::load(None).unwrap_or_else(|faults| panic!("{faults}"))
}

const HOUR: Duration = Duration::from_secs(3600);

const WINDOW: Window = Window { length: HOUR, kind: WindowKind::Sliding };

fn count(at_least: u64, resolve_below: u64, window: Window) -> Term {
    Term {
        measure: Measure::Count(FlowClass::Flows),
        window,
        thresholds: Thresholds { at_least, resolve_below },
    }
}

fn smtp_burst() -> Rule {
    Rule {
        name: "smtp-burst".into(),
        version: 1,
        severity: Severity::High,
        matching: Match {
            source: AddressSet::from(Member::Internal),
            destination: AddressSet::from(Member::External),
            ports: vec![25, 465, 587, 994],
            services: vec![Service::Smtp, Service::Submission, Service::Smtps],
            apps: vec![App::Smtp, App::SmtpStartTls, App::Smtps],
            protocols: vec![Transport::Tcp],
            size: Some(SizeTest { kind: SizeKind::Ratio, layer: Layer::L3, up: 80, down: 80 }),
            sessions_only: false,
            bounds: Vec::new(),
            hours: None,
        },
        group_by: GroupBy::Source,
        window: WINDOW,
        terms: vec![count(10, 8, WINDOW)],
        condition: Condition::Term(0),
        threshold_overrides: Vec::new(),
        allow: Vec::new(),
        resolve_after: Duration::from_secs(600),
        repeat_interval: HOUR,
        labels: [].into(),
        attack: ["T1048.003", "T1048.002", "T1071.003"].map(str::to_owned).into(),
    }
}

#[test]
fn shipped_configuration_equals_documentation() {
    let config = shipped();
    assert_eq!(config.interfaces, []);
    assert_eq!(config.poll_interval, Duration::from_secs(1));
    let tables = config.flow_table;
    assert_eq!((tables.flows, tables.flows_per_source(), tables.overflow), (262_144, 65_536, 65_536));
    assert_eq!(tables.half_open_percent, 75);
    assert_eq!(config.engine.timeouts, Timeouts::default());
    assert_eq!(config.engine.v6_source_prefix, 64);
    assert_eq!(config.engine.rules[0], smtp_burst());
    let names = |rules: &[Rule]| rules.iter().map(|rule| rule.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&config.engine.rules), ["smtp-burst", "smtp-bulk", "smtp-auth-guess"]);
    assert_eq!(names(&config.disabled_rules), ["mail-server-fan-in"]);
    assert_eq!(config.expiries, []);
    assert_eq!(
        config.outputs,
        Outputs {
            metrics: "127.0.0.1:10825".parse().ok(),
            max_sources: 2000,
            max_windows: 2000,
            web_config: None,
            alerts: vec![AlertOutput {
                name: "alerts".into(),
                to: AlertDestination::Lines { target: Target::Stdout, profile: Profile::Eve },
            }],
            flow_log: vec![],
            files: FileLimits { max_size: 10_000_000_000, min_free: Reserve::Percent(1) },
        }
    );
    let services = [
        (25, Service::Smtp),
        (110, Service::Pop3),
        (143, Service::Imap),
        (465, Service::Smtps),
        (587, Service::Submission),
        (993, Service::Imaps),
        (994, Service::Smtps),
        (995, Service::Pop3s),
    ];
    assert_eq!(config.engine.services, services.into());
    let networks: Vec<_> = config.engine.internal.networks().iter().map(|n| n.net.to_string()).collect();
    assert_eq!(networks, ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"]);
    assert_eq!(config.engine.internal.networks()[0].line, "10.0.0.0/8  RFC 1918");
    assert_eq!(config.warnings, []);
}

#[test]
fn omitted_settings_have_shipped_values() {
    same(&good("{}"), &shipped());
    same(&good("# nothing\n{}\n"), &shipped());
    same(&good("\u{feff}timeouts: {}\noutputs: { metrics: {} }\nwatched_ports: {}\r\n"), &shipped());
    let config = good("timeouts: { idle: 1m }");
    assert_eq!(config.engine.timeouts, Timeouts { idle: Duration::from_secs(60), ..Timeouts::default() });
}

#[test]
fn lists_are_replaced_as_a_whole() {
    assert_eq!(good("rules: []").engine.rules, []);
    let config = good("watched_ports: { smtp: [25, 587, 2525], pop3: [], pop3s: [] }");
    let services = &config.engine.services;
    assert_eq!(services.get(&2525), Some(&Service::Smtp));
    assert_eq!(services.get(&587), Some(&Service::Smtp), "taken from submission, which was left out");
    assert_eq!(services.get(&110), None);
    assert_eq!(services.get(&143), Some(&Service::Imap));
}

#[test]
fn minimal_rule_is_valid() {
    let text =
        "rules: [{ name: r, match: {}, window: { length: 5h }, condition: { count: { at_least: 3 } } }]";
    let burst = smtp_burst();
    let long = Window { length: 5 * HOUR, kind: WindowKind::Sliding };
    let rule = Rule {
        name: "r".into(),
        severity: Severity::Medium,
        matching: Match { size: None, ..burst.matching.clone() },
        window: long,
        terms: vec![count(3, 2, long)],
        repeat_interval: 5 * HOUR,
        attack: Vec::new(),
        ..burst
    };
    assert_eq!(good(text).engine.rules, std::slice::from_ref(&rule));
    let sized = good(&text.replace("match: {}", "match: { size: { test: count, down: 40 } }"));
    let size = Some(SizeTest { kind: SizeKind::Count, layer: Layer::L3, up: 80, down: 40 });
    assert_eq!(sized.engine.rules[0].matching.size, size);
    assert_eq!(good(&text.replace("name: r", "name: r, enabled: false")).engine.rules, []);
}

#[test]
fn resolve_threshold_defaults_to_threshold() {
    for (at_least, below) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (9, 8), (10, 8), (100, 80), (101, 81)] {
        let text = format!(
            "rules: [{{ name: r, match: {{}}, window: {{ length: 1h }}, \
             condition: {{ count: {{ at_least: {at_least} }} }} }}]"
        );
        assert_eq!(good(&text).engine.rules[0].terms[0].thresholds.resolve_below, below, "{at_least}");
    }
}

#[test]
fn anchors_aliases_and_merge_keys_are_read() {
    let text = "\
rules:
  - &first
    name: a
    match: &mail { ports: [25] }
    window: { length: 1h }
    condition: { count: { at_least: 5 } }
  - <<: *first
    name: b
    match: { <<: *mail, protocols: [udp] }
";
    let rules = good(text).engine.rules;
    assert_eq!((rules[1].name.as_ref(), rules[1].terms[0].thresholds.at_least), ("b", 5));
    assert_eq!(
        (rules[1].matching.ports.as_slice(), rules[1].matching.protocols.as_slice()),
        (&[25][..], &[Transport::Udp][..])
    );
    let line = faults(&text.replace("at_least: 5", "at_least: 0")).remove(0);
    assert!(
        line.starts_with("f.yaml:6:37: rules[0].condition.count.at_least: \"0\""),
        "the anchor's place: {line}"
    );
}

#[test]
fn off_may_be_off_false_or_null() {
    for off in ["off", "false", "~", "", "\"off\""] {
        let text = format!("outputs:\n  alerts: {off}\n  flow_log: {off}\n  metrics: {{ listen: {off} }}\n");
        let outputs = good(&text).outputs;
        assert_eq!((outputs.alerts, outputs.flow_log, outputs.metrics), (vec![], vec![], None), "{text}");
    }
    let outputs =
        good("outputs: { alerts: a.json, flow_log: \"-\", metrics: { listen: \"[::1]:9\" } }").outputs;
    let (target, profile) = (Target::File("a.json".into()), Profile::Eve);
    let alerts = AlertOutput { name: "alerts".into(), to: AlertDestination::Lines { target, profile } };
    assert_eq!(outputs.alerts, [alerts]);
    let to = FlowDestination::Lines { target: Target::Stdout, profile: Profile::Eve };
    assert_eq!(outputs.flow_log, [FlowOutput { name: "flow_log".into(), to }]);
    assert_eq!(outputs.metrics, "[::1]:9".parse().ok());
}

#[test]
fn interfaces_have_roles_and_hooks() {
    let interfaces = good("interfaces: [{ name: eth1, role: lan, hook: tc }, { name: wg0 }]").interfaces;
    let interface = |name: &str, role, hook| Interface { name: name.to_owned(), role, hook };
    assert_eq!(
        interfaces,
        [interface("eth1", Role::Lan, Hook::Tc), interface("wg0", Role::Auto, Hook::Auto)]
    );
}

/// Every YAML file under `config` is a configuration, except files of other tools and rule tests.
#[test]
fn every_shipped_configuration_is_valid() {
    let root = workspace().join("config");
    let files = configurations(&root, &root);
    assert!(files.iter().any(|file| file.ends_with("mailflow.yaml")), "{files:?}");
    for file in files {
        let config = config::load(Some(&file)).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(warnings_but_of_replaced_rules(&config), Vec::<String>::new(), "{}", file.display());
        // Only the examples have entries with an end.
        const FIFTY_YEARS: i128 = 50 * 366 * 86_400 * 1_000_000_000;
        assert_eq!(config.expired_allow_entries(2 * FIFTY_YEARS).count(), 0, "{}", file.display());
    }
}

fn configurations(root: &Path, directory: &Path) -> Vec<PathBuf> {
    const OTHERS: [&str; 4] = ["ansible", "prometheus", "grafana", "clickhouse"];
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            let inside = path.strip_prefix(root).unwrap().to_owned();
            let yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
            if OTHERS.iter().any(|other| inside.starts_with(other))
                || inside.to_string_lossy().contains("test")
            {
                Vec::new()
            } else if path.is_dir() {
                configurations(root, &path)
            } else {
                yaml.then_some(path).into_iter().collect()
            }
        })
        .collect()
}

#[test]
fn outputs_of_every_kind_are_parsed() {
    let folder = std::env::temp_dir().join(format!("mailflow-outputs-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for file in ["password", "token"] {
        fs::write(folder.join(file), "secret\n").unwrap();
    }
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=a",
        ])
        .args(["-keyout", "ca.key", "-out", "ca.pem"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::write(folder.join("proxy"), "http://me:secret@proxy.example:3128\n").unwrap();
    fs::write(folder.join("address"), "https://soar.example/hook?secret\n").unwrap();
    let text = "
outputs:
  alerts:
    - a.json
    - { type: file, path: \"-\", profile: ocsf, name: screen }
    - { type: journal, profile: ecs }
    - { type: syslog, to: \"udp:[::1]:514\", facility: mail }
    - { type: syslog, to: unix:/dev/log, message: eve, name: local, max_size: 2kB }
    - type: alertmanager
      urls: [\"http://192.0.2.1:9093\", \"https://am.example/path\"]
      labels: { site: berlin }
      basic_auth: { username: me, password_file: password }
      tls: { ca_file: ca.pem }
    - { type: webhook, url: \"https://soar.example/hook\", bearer_token_file: token, headers: { x-tenant: \"7\" } }
    - type: webhook
      name: in_files
      url_file: address
      proxy_file: proxy
      timeout: 30s
      dead_letters: dead.json
      tls: { ca_file: ca.pem, cert_file: ca.pem, key_file: ca.key, server_name: other.example }
  flow_log:
    - { type: ipfix, to: tcp:collector.example:4739 }
    - { type: ipfix, to: \"udp:192.0.2.9:4739\", domain: 7, name: second }
";
    let path = folder.join("config.yaml");
    fs::write(&path, text).unwrap();
    let outputs = config::load(Some(&path)).unwrap_or_else(|faults| panic!("{faults}")).outputs;
    let credentials = Credentials::Basic { username: "me".into(), password_file: folder.join("password") };
    let tls = ClientTls { ca_file: Some(folder.join("ca.pem")), certificate: None, server_name: None };
    let hook = Receiver {
        credentials: Credentials::Bearer { token_file: folder.join("token") },
        tls: ClientTls::default(),
        headers: vec![("x-tenant".into(), "7".into())],
        ..Receiver::default()
    };
    let url = |text: &str| Url::parse(text, UrlForm::Webhook).unwrap();
    let in_files = Receiver {
        tls: ClientTls {
            ca_file: Some(folder.join("ca.pem")),
            certificate: Some((folder.join("ca.pem"), folder.join("ca.key"))),
            server_name: Some("other.example".into()),
        },
        timeout: Duration::from_secs(30),
        proxy: Proxy::File(folder.join("proxy")),
        ..Receiver::default()
    };
    let expected = [
        ("alerts", AlertDestination::Lines { target: Target::File("a.json".into()), profile: Profile::Eve }),
        ("screen", AlertDestination::Lines { target: Target::Stdout, profile: Profile::Ocsf }),
        (
            "alerts_journal",
            AlertDestination::Journal { path: "/run/systemd/journal/socket".into(), profile: Profile::Ecs },
        ),
        (
            "alerts_syslog",
            AlertDestination::Syslog(Syslog {
                to: SyslogDestination::Udp("[::1]:514".into()),
                facility: 2,
                message: SyslogMessage::Text,
                max_size: 8_000,
            }),
        ),
        (
            "local",
            AlertDestination::Syslog(Syslog {
                to: SyslogDestination::Unix("/dev/log".into()),
                facility: 3,
                message: SyslogMessage::Json(Profile::Eve),
                max_size: 2_000,
            }),
        ),
        (
            "alerts_alertmanager",
            AlertDestination::Alertmanager {
                urls: vec![url("http://192.0.2.1:9093"), url("https://am.example/path")],
                receiver: Receiver { credentials, tls, ..Receiver::default() },
                labels: [("site".into(), "berlin".into())].into(),
                every: Duration::from_secs(60),
            },
        ),
        (
            "alerts_webhook",
            AlertDestination::Webhook {
                url: WebhookAddress::Inline(url("https://soar.example/hook")),
                receiver: hook,
                profile: Profile::Eve,
                dead_letters: DeadLetters::InState,
            },
        ),
        (
            "in_files",
            AlertDestination::Webhook {
                url: WebhookAddress::File(folder.join("address")),
                receiver: in_files,
                profile: Profile::Eve,
                dead_letters: DeadLetters::File("dead.json".into()),
            },
        ),
    ];
    assert_eq!(outputs.alerts, expected.map(|(name, to)| AlertOutput { name: name.into(), to }));
    let ipfix = |name: &str, to, domain| FlowOutput {
        name: name.into(),
        to: FlowDestination::Ipfix(Ipfix { to, domain }),
    };
    assert_eq!(
        outputs.flow_log,
        [
            ipfix("flow_log_ipfix", IpfixDestination::Tcp("collector.example:4739".into()), 1),
            ipfix("second", IpfixDestination::Udp("192.0.2.9:4739".into()), 7),
        ]
    );
    fs::remove_dir_all(&folder).unwrap();
}
