//! Man pages: what they refer to exists, groff accepts them, and they have every key of the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Stdio},
};

use mailflow_agent::{cli, config};
use mailflow_test_support::{documents::Block, lab::workspace, temp_folder::TempFolder};
use serde_yaml::Value;

use crate::documents::command_fault;

/// Key that no mapping of the configuration has, nor a similar one.
const UNKNOWN: &str = "zzqx";

/// Configuration with every key at least once. Its values need not be valid.
const EVERY_KEY: &str = r#"
gateway_name: auto
interfaces: [{ name: eth1, role: lan, hook: tc }]
poll_interval: 1s
flow_table: { flows: 1, source_share_percent: 1, overflow_sources: 1, half_open_percent: 1 }
timeouts: { closed: 1s, idle: 1s, unanswered: 1s, active: 1s }
watched_ports: { smtp: [25], submission: [587], smtps: [465], pop3: [110], pop3s: [995], imap: [143], imaps: [993] }
internal_networks:
  networks: [{ cidr: 10.0.0.0/8, group: a, role: mta, comment: c }]
  files: [{ path: a.csv, format: csv, group: a, role: mta, other_columns: ignore }]
sources: { ipv6_prefix: 64 }
limits: { subjects: 1000, memory: 1MB, alerts_per_minute: 1, flood_sources: 1 }
allow: [{ source: any, destination: any, reason: r, until: 2027-01-31 }]
rules:
  - name: one
    enabled: true
    version: 1
    severity: low
    match:
      source: internal
      destination: external
      ports: [25]
      applications: [smtp]
      protocols: [tcp]
      size: { test: ratio, layer: l3, up: 1, down: 1 }
      sessions_only: true
      flow:
        payload_up: { at_least: 1, at_most: 2, at_most_encrypted: 3 }
        payload_down: { at_least: 1, below: 2, below_encrypted: 3 }
        bytes_up: { at_least: 1 }
        bytes_down: { at_least: 1 }
        packets_up: { at_least: 1 }
        packets_down: { at_least: 1 }
        messages: { at_least: 1 }
        data_packets_up: { at_least: 1 }
        data_packets_down: { at_least: 1 }
      hours: { days: [mon], from: "00:00", to: "24:00", utc_offset: "+01:00" }
    group_by: [source]
    window: { length: 1h, kind: sliding }
    condition:
      any:
        - all: [{ count: { of: flows, at_least: 2, window: { length: 1h, kind: sliding } } }]
        - sum: { of: payload_up, at_least: 2, window: { length: 1h, kind: sliding } }
        - distinct: { of: destination, among: flows, at_least: 2, window: { length: 1h, kind: sliding } }
        - ratio: { of: failed, to: attempts, at_least: 0.5, window: { length: 1h, kind: sliding } }
        - first_seen: { of: port, at_least: 1, horizon: 30d, learning: 1d, window: { length: 1h, kind: sliding } }
    resolve: { factor: 0.5, after: 1m }
    thresholds: [{ for: any, factor: 2 }, { for: any, at_least: 2 }]
    allow: [{ source: any, destination: any, reason: r, until: 2027-01-31 }]
    repeat_interval: 1h
    labels: { a: b }
    attack: [T1048]
  - name: two
    match: {}
    window: 1h
    condition: { count: { at_least: 2 } }
    resolve: { below: 1 }
outputs:
  metrics: { listen: off, max_sources: 1, max_windows: 1, web_config: off }
  alerts:
    - { type: file, name: a, path: a.json, profile: eve }
    - { type: journal, name: b, socket: /a, profile: eve }
    - { type: syslog, name: c, to: "unix:/a", facility: mail, message: text, max_size: 8kB }
    - type: alertmanager
      name: d
      urls: ["http://a.example"]
      labels: { a: b }
      every: 60s
      timeout: 10s
      basic_auth: { username: a, password_file: none }
      headers: { A: b }
      tls: { ca_file: none, cert_file: none, key_file: none, server_name: a.example }
      proxy: off
    - { type: webhook, name: e, url: "http://a.example", profile: eve, dead_letters: off, proxy_file: none }
    - { type: webhook, name: f, url_file: none, bearer_token_file: none }
  flow_log:
    - { type: file, name: g, path: a.json, profile: eve }
    - { type: ipfix, name: h, to: "udp:192.0.2.1:4739", domain: 1 }
  files: { max_size: 1GB, min_free: 1% }
control: { socket: off }
state: { directory: off, pins: off, at_stop: keep, max_size: 1GB, min_free: 1%, durability_timeout: 1s }
"#;

/// Man page as written.
struct ManPage {
    /// Name and section, such as `mailflow-agent.8`.
    name: String,
    /// Text in roff.
    roff: String,
}

impl ManPage {
    /// Returns the lines of the text without escapes and fonts.
    fn lines(&self) -> impl Iterator<Item = String> {
        self.roff.lines().map(plain)
    }

    /// Returns the settings of the page's tables, with the lines of their entries.
    fn settings(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let lines: Vec<&str> = self.roff.lines().collect();
        for entry in lines.windows(3).filter(|entry| entry[0] == ".TP" && entry[2].starts_with("value: ")) {
            let names = entry[1].split("\\fB").skip(1).filter_map(|part| part.split("\\fR").next());
            found.extend(names.map(|name| (plain(name), plain(entry[2]))));
        }
        found
    }
}

/// Returns a line of roff as a reader sees it.
fn plain(line: &str) -> String {
    let fonts = line.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\&", "");
    let text = fonts.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\(dq", "\"");
    text.replace("\\(ha", "^").replace("\\(ti", "~").replace("\\(ga", "`").replace("\\\\", "\\")
}

/// Writes all pages, and returns them.
fn man_pages(folder: &TempFolder) -> Vec<ManPage> {
    cli::man::write_man_pages(folder).unwrap();
    let mut pages = Vec::new();
    for section in ["man1", "man5", "man8"] {
        for entry in fs::read_dir(folder.join(section)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(path.extension().unwrap().to_str(), section.strip_prefix("man"));
            pages.push(ManPage { name, roff: fs::read_to_string(path).unwrap() });
        }
    }
    assert!(pages.len() > 15, "{} pages", pages.len());
    pages
}

/// Returns the name of a setting, with the page's way to write them in place of indexes and repetitions.
fn normal(path: &str) -> String {
    let mut name = String::new();
    for (index, part) in path.split(['[', ']']).enumerate() {
        name.push_str(if index % 2 == 0 { part } else { "[]" });
    }
    let Some(rest) = name.strip_prefix("rules[].") else { return name };
    let mut rest = rest.to_owned();
    while let Some(inner) =
        rest.strip_prefix("condition.any[].").or_else(|| rest.strip_prefix("condition.all[]."))
    {
        rest = format!("condition.{inner}");
    }
    let parts: Vec<&str> = rest.split('.').collect();
    match parts[..] {
        ["match", "flow", _] => "rules[].match.flow".to_owned(),
        ["match", "flow", _, bound] => format!("rules[].match.flow.QUANTITY.{bound}"),
        ["condition", _, "window"] => "rules[].condition.TERM.window".to_owned(),
        ["condition", _, "window", key] => format!("rules[].window.{key}"),
        // An entry of an allow-list is the same in both places.
        ["allow[]", key] => format!("allow[].{key}"),
        _ => format!("rules[].{rest}"),
    }
}

/// Adds an unknown key to each mapping, and collects the paths of all keys.
fn add_unknown_keys(value: &mut Value, path: &str, paths: &mut BTreeSet<String>) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping.iter_mut() {
                let key = key.as_str().unwrap();
                let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                paths.insert(normal(&path));
                add_unknown_keys(value, &path, paths);
            }
            mapping.insert(UNKNOWN.into(), 1.into());
        }
        Value::Sequence(items) => {
            for item in items {
                add_unknown_keys(item, &format!("{path}[0]"), paths);
            }
        }
        _ => {}
    }
}

/// Returns the keys that the parser accepts, with the paths of their mappings. In an error about an unknown key it names
/// those that it knows.
fn known_keys() -> Vec<(String, String)> {
    let mut value: Value = serde_yaml::from_str(EVERY_KEY).unwrap();
    let mut given = BTreeSet::new();
    add_unknown_keys(&mut value, "", &mut given);
    let faults = config::parse("keys.yaml", &serde_yaml::to_string(&value).unwrap()).unwrap_err();
    let mut keys = Vec::new();
    for fault in faults.iter() {
        let Some(known) = fault.expected.strip_prefix("unknown key; expected one of ") else { continue };
        let mapping = fault.path.strip_suffix(UNKNOWN).unwrap();
        keys.extend(known.split(", ").map(|key| (mapping.to_owned(), key.to_owned())));
    }
    let missing: Vec<_> =
        keys.iter().filter(|(mapping, key)| !given.contains(&normal(&format!("{mapping}{key}")))).collect();
    assert!(missing.is_empty(), "EVERY_KEY lacks {missing:?}, so what is in them is not known");
    keys
}

#[test]
fn every_key_of_the_configuration_has_an_entry() {
    let folder = TempFolder::new("docs-man-keys");
    let pages = man_pages(&folder);
    let settings = |name: &str, prefix: &str| -> BTreeSet<String> {
        let page = pages.iter().find(|page| page.name == name).unwrap();
        let settings = page.settings().into_iter().map(|(setting, _)| format!("{prefix}{setting}"));
        settings.collect()
    };
    let mut documented = settings("mailflow.yaml.5", "");
    documented.extend(settings("mailflow-rules.5", "rules[].").iter().map(|name| normal(name)));
    // The entries of a section's keys are those of the section.
    let sections: Vec<String> =
        documented.iter().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned())).collect();
    let keys = known_keys();
    let accepted = keys.iter().map(|(mapping, key)| normal(&format!("{mapping}{key}")));
    let accepted: BTreeSet<String> =
        accepted.filter(|key| !sections.contains(key) || documented.contains(key)).collect();
    assert!(accepted.len() > 100, "{} keys", accepted.len());
    let missing: Vec<_> = accepted.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&accepted).collect();
    println!("{} keys", accepted.len());
    assert!(missing.is_empty() && unknown.is_empty(), "not in the pages: {missing:#?}\nno key: {unknown:#?}");
    // One entry stands for all counters.
    let counters: Vec<&String> =
        keys.iter().filter(|(mapping, _)| mapping.ends_with("match.flow.")).map(|(_, key)| key).collect();
    let rules = pages.iter().find(|page| page.name == "mailflow-rules.5").unwrap();
    assert!(
        counters.len() > 5 && counters.iter().all(|name| rules.roff.contains(&format!("\\fB{name}\\fR")))
    );
}

#[test]
fn documented_defaults_are_those_of_the_built_in_configuration() {
    let folder = TempFolder::new("docs-man-defaults");
    let pages = man_pages(&folder);
    let page = pages.iter().find(|page| page.name == "mailflow.yaml.5").unwrap();
    let built_in: Value = serde_yaml::from_str(config::DEFAULT).unwrap();
    let mut compared = 0;
    for (setting, line) in page.settings() {
        let mut keys = setting.split('.');
        let Some(value) = keys.try_fold(&built_in, |value, key| value.get(key)) else { continue };
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Bool(false) => "off".to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Sequence(items) if items.iter().all(Value::is_u64) => {
                let items: Vec<_> = items.iter().map(|item| item.as_u64().unwrap().to_string()).collect();
                format!("[{}]", items.join(", "))
            }
            _ => continue,
        };
        compared += 1;
        let (_, default) = line.split_once("; default: ").unwrap_or_else(|| panic!("{setting}: no default"));
        let default = default.split(';').next().unwrap();
        assert_eq!(default, value, "{setting}");
    }
    assert!(compared > 35, "{compared} settings");
}

#[test]
fn commands_in_man_pages_parse() {
    let folder = TempFolder::new("docs-man-commands");
    let mut faults = Vec::new();
    let mut parsed = 0;
    for page in man_pages(&folder) {
        let (mut open, mut text) = (false, String::new());
        for line in page.lines() {
            match line.as_str() {
                ".nf" => open = true,
                ".fi" => open = false,
                line if open => text.push_str(&format!("{}\n", line.strip_prefix("$ ").unwrap_or(line))),
                _ => {}
            }
        }
        let ours = |line: &&str| line.trim_start_matches("sudo ").starts_with("mailflow-agent ");
        let text = text.lines().filter(ours).collect::<Vec<_>>().join("\n");
        let block = Block { line: 0, info: "sh".to_owned(), text, not_run: None };
        for command in block.commands() {
            parsed += 1;
            if let Some(fault) = command_fault(&command) {
                faults.push(format!("{}: {}: {fault}", page.name, command.words.join(" ")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(parsed > 25, "{parsed} commands");
}

/// Returns words of a text that may be names of pages or files.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split([' ', ',', ';', '"', '<', '>', '=']).map(|word| word.trim_matches(['.', ':', '\'']))
}

#[test]
fn man_pages_refer_to_pages_and_files_that_exist() {
    let folder = TempFolder::new("docs-man-references");
    let pages = man_pages(&folder);
    let names: BTreeSet<&str> = pages.iter().map(|page| page.name.as_str()).collect();
    let mut faults = BTreeMap::new();
    let mut found = 0;
    for page in &pages {
        for line in page.lines() {
            for word in words(&line) {
                let word = word.trim_start_matches('(');
                if let Some((name, section)) = word.split_once('(')
                    && name.starts_with("mailflow")
                    && let Some(section) = section.split(')').next()
                    && ["1", "5", "8"].contains(&section)
                {
                    found += 1;
                    if !names.contains(format!("{name}.{section}").as_str()) {
                        faults.insert(word.to_owned(), page.name.clone());
                    }
                }
                let word = word.trim_end_matches([')', '.']);
                let shipped = word.strip_prefix("/usr/share/doc/mailflow-agent/").unwrap_or(word);
                let file = match shipped.split_once('/') {
                    Some(("examples", name)) => format!("config/{}", name.replace("/*.yaml", "")),
                    Some(("docs", _)) => shipped.to_owned(),
                    _ => continue,
                };
                found += 1;
                if !workspace().join(&file).exists() {
                    faults.insert(word.to_owned(), page.name.clone());
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(found > 100, "{found} references");
}

/// The unit names man pages, and a document of the package.
#[test]
fn unit_refers_to_pages_that_exist() {
    let folder = TempFolder::new("docs-man-unit");
    let names: BTreeSet<String> = man_pages(&folder).into_iter().map(|page| page.name).collect();
    let unit = fs::read_to_string(workspace().join("config/systemd/mailflow-agent.service")).unwrap();
    let listed = unit.lines().find_map(|line| line.strip_prefix("Documentation=")).unwrap();
    let mut pages = 0;
    for address in listed.split(' ') {
        if let Some(page) = address.strip_prefix("man:") {
            pages += 1;
            assert!(names.contains(&page.replace('(', ".").replace(')', "")), "{address}");
        } else {
            let file = address.strip_prefix("file:///usr/share/doc/mailflow-agent/").unwrap();
            assert!(workspace().join(file).exists(), "{address}");
        }
    }
    assert!(pages > 1, "{listed}");
}

/// Skips where groff is not installed; CI has it.
#[test]
fn groff_has_no_warning() {
    if Command::new("groff").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: groff is not installed (Debian's groff-base)");
        return;
    }
    let folder = TempFolder::new("docs-man-groff");
    for page in man_pages(&folder).iter().filter(|page| !page.roff.starts_with(".so ")) {
        let section = page.name.rsplit('.').next().unwrap();
        let file = folder.join(format!("man{section}")).join(&page.name);
        let groff = Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(&file).output().unwrap();
        let warnings = String::from_utf8_lossy(&groff.stderr);
        assert!(groff.status.success() && warnings.is_empty(), "{}: {warnings}", page.name);
        assert!(groff.stdout.len() > 500, "{}", page.name);
    }
}
