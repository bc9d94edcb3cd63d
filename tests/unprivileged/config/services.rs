//! Ports of rules by service, and shipped rules that a rule list replaces.

use mailflow_agent::config::Config;

use super::good;

fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().map(ToString::to_string).collect()
}

fn ports(config: &Config) -> Vec<(&str, &[u16])> {
    config.engine.rules.iter().map(|rule| (&*rule.name, rule.matching.ports.as_slice())).collect()
}

/// Returns a rule of this name with further settings.
fn rule(name: &str, more: &str) -> String {
    format!("{{ name: {name}, match: {{ {more} }}, window: 1h, condition: {{ count: {{ at_least: 10 }} }} }}")
}

#[test]
fn shipped_rules_match_four_ports() {
    let four: &[u16] = &[25, 465, 587, 994];
    let config = good("{}");
    assert_eq!(ports(&config), [("smtp-burst", four), ("smtp-bulk", four), ("smtp-auth-guess", four)]);
    assert_eq!(config.disabled_rules[0].matching.ports, four);
    assert_eq!(warnings(&config), Vec::<String>::new());
}

#[test]
fn port_added_to_service_is_matched_by_its_rules() {
    for (watched, expected) in [
        ("smtp: [25, 2525]", vec![25, 465, 587, 994, 2525]),
        ("submission: [587, 2587]", vec![25, 465, 587, 994, 2587]),
        ("smtps: [465]", vec![25, 465, 587]),
        ("smtp: []", vec![465, 587, 994]),
        ("smtp: [26], submission: [], smtps: [2465, 4650]", vec![26, 2465, 4650]),
        ("pop3: [110, 25]", vec![465, 587, 994]),
    ] {
        let config = good(&format!("watched_ports: {{ {watched} }}"));
        assert_eq!(config.engine.rules.len(), 3);
        for (rule, ports) in ports(&config) {
            assert_eq!(ports, expected, "{watched}: {rule}");
        }
    }
}

#[test]
fn port_list_mixes_numbers_and_services() {
    let config = good(&format!(
        "watched_ports: {{ imap: [143, 1143] }}\nrules: [{}]",
        rule("r", "ports: [imap, 25, 143]")
    ));
    assert_eq!(ports(&config), [("r", [25, 143, 1143].as_slice())]);
    let config = good(&format!("rules: [{}]", rule("r", "ports: [587, 25]")));
    assert_eq!(ports(&config), [("r", [25, 587].as_slice())]);
}

#[test]
fn watched_port_without_rule_is_warned() {
    let warned = |text: &str| -> Vec<String> {
        let all = warnings(&good(text)).into_iter();
        all.filter(|warning| warning.contains("no rule uses")).collect()
    };
    for text in
        ["{}", "watched_ports: { smtp: [25, 2525] }", "watched_ports: { pop3: [], imap: [143] }", "rules: []"]
    {
        assert_eq!(warned(text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(
        warned("watched_ports: { imap: [143, 1143], smtp: [25, 26] }"),
        [
            "f.yaml:1:18: watched_ports.imap: no rule uses port 1143 (imap): the flows are counted, and cause no alert"
        ]
    );
    let narrow = format!("watched_ports: {{ smtp: [25, 2525] }}\nrules: [{}]", rule("r", "ports: [25]"));
    assert_eq!(
        warned(&narrow),
        [
            "f.yaml:1:18: watched_ports.smtp: no rule uses port 2525 (smtp): the flows are counted, and cause no alert",
            "f.yaml:2:8: rules: no rule uses port 587 (submission): the flows are counted, and cause no alert",
            "f.yaml:2:8: rules: no rule uses ports 465, 994 (smtps): the flows are counted, and cause no alert",
        ]
    );
    // A disabled rule uses no port.
    let off = format!(
        "rules: [{}, {}]",
        rule("r", "ports: [25]"),
        rule("s", "").replace("name: s", "name: s, enabled: false")
    );
    assert_eq!(warned(&off).len(), 2, "{:?}", warned(&off));
}

#[test]
fn replaced_shipped_rules_are_listed() {
    const ALL: [&str; 4] = [
        "smtp-burst (with its size test)",
        "smtp-bulk",
        "smtp-auth-guess",
        "mail-server-fan-in (off as shipped)",
    ];
    let lists = [
        ("[]".to_owned(), ALL.to_vec()),
        (format!("[{}]", rule("mine", "")), ALL.to_vec()),
        (format!("[{}]", rule("smtp-burst", "size: {}")), ALL[1..].to_vec()),
        (format!("[{}, {}]", rule("smtp-auth-guess", ""), rule("smtp-bulk", "")), vec![ALL[0], ALL[3]]),
    ];
    for (list, gone) in lists {
        let warned = warnings(&good(&format!("rules: {list}")));
        let gone = gone.join(", ");
        let expected = format!(
            "f.yaml:1:8: rules: this list replaces the shipped one; not evaluated any more: {gone}. To keep them, \
             copy them from `mailflow-agent print-config`"
        );
        assert_eq!(warned, [expected], "{list}");
    }
    let all = ["smtp-burst", "smtp-bulk", "smtp-auth-guess", "mail-server-fan-in"]
        .map(|name| rule(name, "size: {}"));
    assert_eq!(warnings(&good(&format!("rules: [{}]", all.join(", ")))), Vec::<String>::new());
}

#[test]
fn shipped_rule_without_size_test_is_warned() {
    let warned = warnings(&good(&format!("rules:\n  - {}", rule("smtp-burst", ""))));
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert_eq!(
        warned[1],
        "f.yaml:2:5: rules.smtp-burst: the size test of the shipped rule of this name is gone: flows of any size \
         count. To keep it, add `size: {}` to its match"
    );
}

#[test]
fn interface_name_matched_by_pattern_is_warned() {
    let list = "interfaces: [{ name: 'ppp*', role: lan }, { name: ppp0, role: host }, { name: 're:^p', hook: tc }, { name: eth1 }]";
    assert_eq!(
        warnings(&good(list)),
        [
            "f.yaml:1:51: interfaces[1].name: \"ppp0\": the entry ppp* matches it too; the entry with the name decides"
        ]
    );
}
