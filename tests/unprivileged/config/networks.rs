//! Internal networks: inline, from files, and nested.

use std::{fs, path::PathBuf};

use mailflow_agent::config::{self, Config};

use mailflow_test_support::temp_folder::TempFolder;

use super::{good, warnings_but_of_replaced_rules};

/// Temporary directory, removed on drop.
pub(crate) struct Scratch(pub(crate) TempFolder);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        Self(TempFolder::new(&format!("config-{name}")))
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Returns the errors of a configuration in this directory, without the directory in paths.
    pub(crate) fn faults(&self, text: impl AsRef<[u8]>) -> Vec<String> {
        let faults = config::load(Some(&self.write("m.yaml", text))).expect_err("faults");
        let directory = format!("{}/", self.0.display());
        faults.iter().map(|fault| fault.to_string().replace(&directory, "")).collect()
    }
}

fn networks(config: &Config) -> Vec<(String, bool, Option<&str>)> {
    let all = config.engine.internal.networks().iter();
    all.map(|network| (network.net.to_string(), network.exclude, network.group.as_deref())).collect()
}

#[test]
fn inline_networks_have_three_forms() {
    let config = good(
        "internal_networks:\n  networks:\n    - 10.0.0.0/8\n    - \"!10.9.0.0/16\"\n    - 192.0.2.1\n    \
         - { cidr: \"::ffff:198.51.100.0/120\", group: mta, comment: relays }\n",
    );
    assert_eq!(
        networks(&config),
        [
            ("10.0.0.0/8".to_owned(), false, None),
            ("10.9.0.0/16".to_owned(), true, None),
            ("192.0.2.1/32".to_owned(), false, None),
            ("198.51.100.0/24".to_owned(), false, Some("mta")),
        ]
    );
    let lines = config.engine.internal.networks().iter().map(|network| network.line.as_str());
    assert!(lines.eq(["10.0.0.0/8", "!10.9.0.0/16", "192.0.2.1", "::ffff:198.51.100.0/120  relays"]));
}

#[test]
fn network_files_are_relative_to_configuration() {
    let scratch = Scratch::new("relative");
    scratch.write(
        "list.txt",
        "\u{feff}# offices\n\n10.1.0.0/16  Berlin # main\r\n  !10.1.9.0/24\n2001:db8::/32\n",
    );
    let file = scratch.write("m.yaml", "internal_networks: { files: [list.txt] }");
    let config = config::load(Some(&file)).unwrap();
    assert_eq!(
        networks(&config),
        [
            ("10.1.0.0/16".to_owned(), false, None),
            ("10.1.9.0/24".to_owned(), true, None),
            ("2001:db8::/32".to_owned(), false, None),
        ],
        "and nothing of the shipped list"
    );
    assert_eq!(config.engine.internal.networks()[0].line, "10.1.0.0/16  Berlin # main");
}

#[test]
fn errors_in_network_files_have_locations() {
    let scratch = Scratch::new("faults");
    scratch.write("a.txt", "10.1.0.0/16 Berlin\n\t10.2.0.1/16\n  oops\n10.1.0.0/16\n");
    scratch.write("b.txt", b"10.3.0.0/16 \xff\n");
    let text = "internal_networks:\n  networks: [10.1.0.0/16]\n  files: [a.txt, b.txt, c.txt]\nsources: 1\n";
    assert_eq!(
        scratch.faults(text),
        [
            "m.yaml:3:25: internal_networks.files[2]: \"c.txt\": c.txt: cannot be read: No such file or directory \
             (os error 2)",
            "m.yaml:4:10: sources: \"1\": expected a mapping (key: value)",
            "a.txt:2:2: \"10.2.0.1/16\": host bits set; did you mean 10.2.0.0/16?",
            "a.txt:3:3: \"oops\": expected a network such as 10.0.0.0/8, fc00::/7 or an address",
            "b.txt:1:13: byte 0xff is not UTF-8",
        ]
    );
}

#[test]
fn configuration_that_is_no_text_is_an_error() {
    let scratch = Scratch::new("text");
    assert_eq!(scratch.faults(b"sources: {}\n# \xc3\xb6\xe9\n"), ["m.yaml:2:4: byte 0xe9 is not UTF-8"]);
    assert_eq!(scratch.faults(b"a: \0"), ["m.yaml:1:4: NUL byte; expected UTF-8 text"]);
    assert_eq!(scratch.faults(""), ["m.yaml:1:1: the file is empty; write {} to use all defaults"]);
    let missing = config::load(Some(&scratch.0.join("none.yaml"))).unwrap_err().to_string();
    assert!(
        missing.ends_with("none.yaml: cannot be read: No such file or directory (os error 2)"),
        "{missing}"
    );
}

/// The examples in the documentation are valid, with the network files shown there.
#[test]
fn documented_examples_are_valid() {
    let document = include_str!("../../../docs/operate/configuration.md");
    let blocks = |kind: &str| {
        let blocks = document.split("```").skip(1).step_by(2);
        blocks.filter_map(|block| block.strip_prefix(kind)).map(str::to_owned).collect::<Vec<_>>()
    };
    let scratch = Scratch::new("documented");
    let (lists, tables, netbox) = (blocks("text\n"), blocks("csv\n"), blocks("json\n"));
    let examples = blocks("yaml\n");
    assert_eq!((lists.len(), tables.len(), netbox.len(), examples.len()), (1, 1, 1, 6));
    scratch.write("offices.txt", &lists[0]);
    scratch.write("hosts.csv", &tables[0]);
    scratch.write("netbox.json", &netbox[0]);
    for example in examples {
        let loaded = config::load(Some(&scratch.write("m.yaml", &example)));
        let config = loaded.unwrap_or_else(|faults| panic!("{faults}\nin {example}"));
        assert_eq!(warnings_but_of_replaced_rules(&config), Vec::<String>::new(), "in {example}");
    }
}

#[test]
fn unintended_nested_networks_are_warned() {
    let config = good(
        "internal_networks:\n  networks:\n    - 10.1.2.0/24\n    - 10.0.0.0/8\n    - \"!10.9.0.0/16\"\n    - 10.9.1.0/24\n    \
         - \"!10.9.2.0/24\"\n    - \"!192.0.2.0/24\"\n    - { cidr: 10.3.0.0/16, group: mta }\n    - \"fc00::/7\"\n    \
         - { cidr: 10.3.1.0/24, group: web }\n    - { cidr: 10.3.2.0/24, group: mta }\n    \
         - { cidr: 10.3.3.0/24, role: mta }\n    - { cidr: 10.3.3.1, comment: the old one }\n    \
         - { cidr: 10.3.3.2, role: mta }\n",
    );
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    let at = |line: &str, index: &str| format!("f.yaml:{line}: internal_networks.networks[{index}: ");
    assert_eq!(
        warnings,
        [
            at("3:7", "0]") + "\"10.1.2.0/24\": lies within 10.0.0.0/8 (f.yaml:4:7), so it has no effect",
            at("7:7", "4]")
                + "\"!10.9.2.0/24\": lies within 10.9.0.0/16 (f.yaml:5:7), which is excluded already",
            at("8:7", "5]")
                + "\"!192.0.2.0/24\": has no effect: the excluded network is in no internal network",
            at("11:15", "8].cidr")
                + "\"10.3.1.0/24\": lies within 10.3.0.0/16 (f.yaml:9:15), group web within group mta; the longer prefix decides",
            at("12:15", "9].cidr")
                + "\"10.3.2.0/24\": lies within 10.3.0.0/16 (f.yaml:9:15), so it has no effect",
            at("15:15", "12].cidr")
                + "\"10.3.3.2\": lies within 10.3.3.0/24 (f.yaml:13:15), so it has no effect",
        ]
    );
}

#[test]
fn network_within_other_group_is_warned() {
    for (list, line) in [
        ("{ cidr: 10.0.0.0/8, group: a }, { cidr: 10.1.0.0/16, group: b }", 1),
        ("{ cidr: 10.1.0.0/16, group: b }, { cidr: 10.0.0.0/8, group: a }", 0),
    ] {
        let config = good(&format!("internal_networks:\n  networks: [{list}]\n"));
        let [warning] = &config.warnings[..] else { panic!("{list}: {:?}", config.warnings) };
        let warning = warning.to_string();
        assert!(
            warning.contains(&format!("networks[{line}].cidr: \"10.1.0.0/16\": lies within 10.0.0.0/8")),
            "{warning}"
        );
        assert!(warning.ends_with("group b within group a; the longer prefix decides"), "{warning}");
    }
    // A network with an inherited role makes an equal role of a nested network redundant.
    let config = good(
        "internal_networks:\n  networks: [{ cidr: 10.0.0.0/8, role: mta }, { cidr: 10.1.0.0/16, role: mta }]\n",
    );
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}
