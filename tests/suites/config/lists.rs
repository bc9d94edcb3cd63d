//! Files of networks in each format: what is read from them, and every fault with its place.

use std::fs;

use mailflow_agent::{
    config::{self, Config},
    engine::assets::AssetRole,
};
use proptest::prelude::*;

use super::networks::Scratch;

/// Prefix (with `!`), line, group, role and origin of every network.
fn shown(config: &Config, scratch: &Scratch) -> Vec<String> {
    let directory = format!("{}/", scratch.0.display());
    let networks = config.engine.internal.networks().iter();
    networks
        .map(|network| {
            let role = network.role.map_or("-", AssetRole::name);
            let origin = network.origin.as_ref().unwrap().to_string().replace(&directory, "");
            let not = if network.exclude { "!" } else { "" };
            let group = network.group.as_deref().unwrap_or("-");
            format!("{not}{} | {} | {group} | {role} | {origin}", network.net, network.line)
        })
        .collect()
}

fn load(scratch: &Scratch, files: &str) -> Config {
    let file = scratch.write("m.yaml", format!("internal_networks: {{ files: [{files}] }}"));
    config::load(Some(&file)).unwrap_or_else(|faults| panic!("{faults}"))
}

fn warnings(config: &Config, scratch: &Scratch) -> Vec<String> {
    let directory = format!("{}/", scratch.0.display());
    config.warnings.iter().map(|warning| warning.to_string().replace(&directory, "")).collect()
}

#[test]
fn tables_have_columns_by_name() {
    let scratch = Scratch::new("csv");
    scratch.write(
        "a.csv",
        "\u{feff}# exported\r\n\r\nRole ,\"Prefix\",Description,group,EXCLUDE\r\n\
         workstation,10.1.0.0/16,\"Berlin, Mitte\",berlin,\r\n\
         # gone\r\n,,,,\r\n\
         , 10.1.9.0/24 ,guests,,yes\r\n\
         MTA,!10.1.8.0/24,,,no\r\n\
         mta,\"10.1.0.25\",\"the \"\"big\"\" one\"\r\n",
    );
    let config = load(&scratch, "a.csv");
    assert_eq!(
        shown(&config, &scratch),
        [
            "10.1.0.0/16 | 10.1.0.0/16  Berlin, Mitte | berlin | workstation | a.csv:4",
            "!10.1.9.0/24 | !10.1.9.0/24  guests | - | - | a.csv:7",
            "!10.1.8.0/24 | !10.1.8.0/24 | - | mta | a.csv:8",
            "10.1.0.25/32 | 10.1.0.25  the \"big\" one | berlin | mta | a.csv:9",
        ]
    );
}

#[test]
fn semicolons_tabs_and_no_extension_are_seen() {
    let scratch = Scratch::new("delimiters");
    scratch.write("a", "# a table\nnetwork;comment\n10.1.0.0/16;a, b\n");
    scratch.write("b.tsv", "cidr\tgroup\n10.2.0.0/16\tx; y\n");
    scratch.write("c", "cidr\n10.3.0.0/16\n");
    scratch.write("d.csv", "10.4.0.0/16 a list, whatever its name says\n");
    let config = load(&scratch, "a, b.tsv, c, { path: d.csv, format: lines, group: web, role: server }");
    assert_eq!(
        shown(&config, &scratch),
        [
            "10.1.0.0/16 | 10.1.0.0/16  a, b | - | - | a:3",
            "10.2.0.0/16 | 10.2.0.0/16 | x; y | - | b.tsv:2",
            "10.3.0.0/16 | 10.3.0.0/16 | - | - | c:2",
            "10.4.0.0/16 | 10.4.0.0/16 a list, whatever its name says | web | server | d.csv:1",
        ]
    );
}

#[test]
fn what_is_said_of_a_file_holds_where_its_lines_say_nothing() {
    let scratch = Scratch::new("whole");
    scratch.write("a.csv", "cidr,group,role\n10.1.0.0/16,,\n10.2.0.0/16,own,mta\n");
    let config = load(&scratch, "{ path: a.csv, group: all, role: server }");
    assert_eq!(
        shown(&config, &scratch),
        [
            "10.1.0.0/16 | 10.1.0.0/16 | all | server | a.csv:2",
            "10.2.0.0/16 | 10.2.0.0/16 | own | mta | a.csv:3"
        ]
    );
}

#[test]
fn faults_of_tables_have_line_and_column() {
    let scratch = Scratch::new("csv-faults");
    scratch.write(
        "a.csv",
        "cidr,group,role,exclude,comment\n\
         10.1.0.1/16,x,mtaa,maybe,c\n\
         \"10.2.0.0/16\",\"ö, \"\"x\"\"\", post ,,\n\
         oops\n\
         ,x\n\
         10.3.0.0/16,,,,a,b\n\
         10.4.0.0/16,,,,ok\n\
         10.4.0.0/16\n\
         10.7.0.0/16,,,,5\" disk, or 6\"\n\
         10.8.0.0/16, \"x\",mtab\n\
         10.5.0.0/16,,,,\"no end\n10.6.0.0/16\n",
    );
    scratch.write("b.csv", "\ncidr,gruop,site,Network\n10.7.0.0/16\n");
    scratch.write("c.csv", "10.8.0.0/16,Berlin\n");
    scratch.write("d.csv", "group,comment\n");
    scratch.write("e.csv", "cidr\n# nothing yet\n");
    scratch.write("f.csv", "");
    let roles = "expected one of workstation, server, mta, newsletter, application, scanner, printer, \
                 monitoring, phone, iot, guest, vpn, nat";
    let names = "cidr, prefix, network, group, role, comment, description, exclude";
    let other = format!("unknown column; expected {names}, or other_columns: ignore beside the file's path");
    let empty = "names no network in use; an empty list is more often a failed export";
    assert_eq!(
        scratch.faults("internal_networks: { files: [a.csv, b.csv, c.csv, d.csv, e.csv, f.csv] }"),
        [
            "a.csv:2:1: \"10.1.0.1/16\": host bits set; did you mean 10.1.0.0/16?".to_owned(),
            format!("a.csv:2:15: \"mtaa\": {roles}; did you mean mta?"),
            "a.csv:2:20: \"maybe\": expected yes or no".to_owned(),
            "a.csv:3:15: \"ö, \"x\"\": expected the name of a group: 1 to 64 characters, no comma".to_owned(),
            format!("a.csv:3:27: \"post\": {roles}"),
            "a.csv:4:1: \"oops\": expected a network such as 10.0.0.0/8, fc00::/7 or an address".to_owned(),
            "a.csv:5:1: \"\": expected a network such as 10.0.0.0/8, fc00::/7 or an address".to_owned(),
            "a.csv:6:18: \"b\": more fields than the 5 columns; a field with \",\" in it stands in quotes"
                .to_owned(),
            "a.csv:8:1: \"10.4.0.0/16\": this network was listed before, at a.csv:7:1".to_owned(),
            "a.csv:9:25: \"or 6\"\": more fields than the 5 columns; a field with \",\" in it stands in quotes".to_owned(),
            "a.csv:10:14: \"\"x\"\": a quote must be the first character of its field, without a space before it".to_owned(),
            "a.csv:11:16: \"no end\\n10.6.0.0/16\": a line break in a field; is a quote missing?".to_owned(),
            "b.csv:2:6: \"gruop\": unknown column; did you mean group?".to_owned(),
            format!("b.csv:2:12: \"site\": {other}"),
            "b.csv:2:17: \"Network\": another column says the same".to_owned(),
            format!("c.csv:1:1: \"10.8.0.0/16\": {other}"),
            format!("c.csv:1:13: \"Berlin\": {other}"),
            "d.csv:1:1: \"group\": the first line must name the columns, one of them cidr, prefix or network"
                .to_owned(),
            format!("e.csv:1:1: {empty}"),
            format!("f.csv:1:1: {empty}"),
        ]
    );
}

#[test]
fn other_columns_may_be_ignored_by_name() {
    let scratch = Scratch::new("other");
    scratch.write("a.csv", "ID,Prefix,VRF\n1,10.1.0.0/16,blue\n");
    assert_eq!(scratch.faults("internal_networks: { files: [a.csv] }").len(), 2);
    let config = load(&scratch, "{ path: a.csv, other_columns: ignore }");
    assert_eq!(shown(&config, &scratch), ["10.1.0.0/16 | 10.1.0.0/16 | - | - | a.csv:2"]);
}

/// As NetBox 4 answers, without what nobody reads here.
const NETBOX: &str = r#"{"count": 7, "next": null, "previous": null, "results": [
  {"id": 1, "family": {"value": 4, "label": "IPv4"}, "prefix": "10.0.0.0/8", "vrf": null, "tenant": null,
   "status": {"value": "container", "label": "Container"}, "role": null, "description": ""},
  {"id": 2, "prefix": "10.1.0.0/16", "vrf": null, "tenant": {"id": 3, "name": "ACME Inc", "slug": "acme"},
   "status": {"value": "active", "label": "Active"}, "role": {"id": 1, "name": "Mail", "slug": "mta"},
   "description": "relays \u00f6"},
  {"id": 3, "prefix": "10.2.0.0/16", "status": {"value": "reserved"}, "role": {"slug": "lan"}, "tenant": null},
  {"id": 4, "prefix": "10.3.0.0/16", "status": {"value": "deprecated"}},
  {"id": 5, "prefix": "10.4.0.0/16", "status": {"value": "our-own"}, "role": {"slug": "lan"}},
  {"id": 6, "prefix": "2001:db8::/32"}]}"#;

#[test]
fn netbox_says_prefixes_tenants_and_roles() {
    let scratch = Scratch::new("netbox");
    scratch.write("a.json", NETBOX);
    let config = load(&scratch, "{ path: a.json, group: rest }");
    let expected = [
        "10.1.0.0/16 | 10.1.0.0/16  relays ö | acme | mta | a.json:4",
        "10.2.0.0/16 | 10.2.0.0/16 | rest | - | a.json:7",
        "10.4.0.0/16 | 10.4.0.0/16 | rest | - | a.json:9",
        "2001:db8::/32 | 2001:db8::/32 | rest | - | a.json:10",
    ];
    assert_eq!(shown(&config, &scratch), expected);
    let warnings = warnings(&config, &scratch);
    assert_eq!(warnings.len(), 1, "a role is told of once: {warnings:?}");
    assert!(warnings[0].starts_with("a.json:7:3: \"lan\": a role that is none of workstation, server"));

    // The list alone, in a file that does not say what it is, on one line.
    let list = NETBOX.split_once("\"results\": ").unwrap().1.trim_end_matches('}').replace('\n', "");
    scratch.write("b", list);
    let config = load(&scratch, "{ path: b, group: rest }");
    let lines = |line: &str| line.rsplit_once(" | ").unwrap().0.to_owned();
    assert_eq!(
        shown(&config, &scratch).iter().map(|line| lines(line)).collect::<Vec<_>>(),
        expected.map(lines)
    );
}

#[test]
fn one_prefix_in_two_routing_tables_is_warned_of() {
    let scratch = Scratch::new("vrf");
    scratch.write(
        "a.json",
        "[{\"prefix\": \"10.1.0.0/16\", \"tenant\": {\"slug\": \"a\"}},\n\
         {\"prefix\": \"10.1.0.0/16\", \"tenant\": {\"slug\": \"b\"}, \"vrf\": {\"id\": 1, \"name\": \"blue\"}}]",
    );
    let config = load(&scratch, "a.json");
    let found = config.engine.internal.find("10.1.2.3".parse().unwrap()).unwrap();
    assert_eq!(found.group.as_deref(), Some("b"));
    assert_eq!(
        warnings(&config, &scratch)[0],
        "a.json:2:1: \"10.1.0.0/16\": this network was listed before, at a.json:1:2, in another VRF; this one decides"
    );
}

#[test]
fn faults_of_netbox_files_have_line_and_column() {
    let scratch = Scratch::new("netbox-faults");
    scratch.write(
        "a.json",
        "[\n {\"prefix\": \"10.1.0.1/16\"},\n {\"prefix\": 7}, {\"name\": \"ö\"}, 5,\n {\"prefix\": \"10.2.0.0/16\"},\n  \
         {\"prefix\": \"10.2.0.0/16\"}, {\"prefix\": \"10.3.0.0/16\", \"tenant\": {\"slug\": \"a,b\"}}]",
    );
    scratch.write("b.json", "{\"results\": [\n  {\"prefix\": \"10.9.0.0/16\" \"a\": 1}]}");
    scratch.write("c.json", "{\"result\": []}");
    scratch.write(
        "d.json",
        "{\"next\": \"https://netbox/?offset=50\", \"results\": [{\"prefix\": \"10.4.0.0/16\"}]}",
    );
    scratch.write("e.json", "[{\"prefix\": \"10.5.0.0/16\", \"status\": {\"value\": \"container\"}}]");
    scratch.write("f.json", "10.6.0.0/16\n");
    let expected = "expected what NetBox's /api/ipam/prefixes/ answers, or the list of its results";
    assert_eq!(
        scratch.faults("internal_networks: { files: [a.json, b.json, c.json, d.json, e.json, f.json] }"),
        [
            "a.json:2:2: \"10.1.0.1/16\": host bits set; did you mean 10.1.0.0/16?".to_owned(),
            format!("a.json:3:13: {expected}: invalid type: integer `7`, expected a string"),
            format!("a.json:3:29: {expected}: missing field `prefix`"),
            format!("a.json:3:32: {expected}: invalid type: integer `5`, expected struct Prefix"),
            "a.json:5:3: \"10.2.0.0/16\": this network was listed before, at a.json:4:2".to_owned(),
            "a.json:5:30: \"a,b\": expected the name of a group: 1 to 64 characters, no comma".to_owned(),
            "b.json:2:28: this is no JSON: expected `,` or `}`".to_owned(),
            format!("c.json:1:14: {expected}: missing field `results`"),
            "d.json:1:1: \"next\": one page of several (\"next\" is not null); ask NetBox for all with ?limit=0"
                .to_owned(),
            "e.json:1:1: names no network in use; an empty list is more often a failed export".to_owned(),
            format!("f.json:1:4: {expected}: invalid type: floating point `10.6`, expected struct Page"),
        ]
    );
}

#[test]
fn settings_of_files_are_checked() {
    let scratch = Scratch::new("file-settings");
    scratch.write("a.txt", "10.1.0.0/16\n");
    assert_eq!(
        scratch.faults(
            "internal_networks:\n  networks:\n    - { cidr: 10.9.0.0/16, role: mtaa }\n  files:\n    \
             - { path: a.txt, format: cvs, group: \"a,b\", role: 1, other_columns: no }\n    - { pth: a.txt }\n"
        ),
        [
            "m.yaml:3:34: internal_networks.networks[0].role: \"mtaa\": expected one of workstation, server, mta, \
             newsletter, application, scanner, printer, monitoring, phone, iot, guest, vpn, nat; did you mean mta?",
            "m.yaml:5:30: internal_networks.files[0].format: \"cvs\": expected one of lines, csv, netbox; \
             did you mean csv?",
            "m.yaml:5:42: internal_networks.files[0].group: \"a,b\": expected the name of a group: 1 to 64 \
             characters, no comma",
            "m.yaml:5:55: internal_networks.files[0].role: \"1\": expected one of workstation, server, mta, \
             newsletter, application, scanner, printer, monitoring, phone, iot, guest, vpn, nat",
            "m.yaml:5:73: internal_networks.files[0].other_columns: \"no\": expected one of refuse, ignore",
            "m.yaml:6:9: internal_networks.files[1].pth: unknown key; did you mean path?",
        ]
    );
}

#[test]
fn a_changed_file_is_read_once_it_keeps_still_and_only_if_it_is_good() {
    let scratch = Scratch::new("reload");
    scratch.write("a.txt", "10.1.0.0/16\n");
    scratch.write("b.txt", "10.2.0.0/16\n");
    let mut lists = load(&scratch, "a.txt, b.txt").lists;
    assert_eq!(lists.files().count(), 2);
    assert!(!lists.changed() && !lists.changed());

    // Written while it is looked at: nobody reads it before it has kept still.
    scratch.write("a.txt", "10.1.0.0/16\n10.3.0");
    assert!(!lists.changed());
    scratch.write("a.txt", "10.1.0.0/16\n10.3.0.0/16\n");
    assert!(!lists.changed());
    assert!(lists.changed());
    let (networks, warnings) = lists.read_again().unwrap();
    assert_eq!((networks.networks().len(), warnings.len()), (3, 0));
    assert!(!lists.changed() && !lists.changed());

    // Replaced by another file of the same size and time.
    let time = fs::metadata(scratch.0.join("b.txt")).unwrap().modified().unwrap();
    let other = scratch.write("c.txt", "10.4.0.0/16\n");
    fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(other, scratch.0.join("b.txt")).unwrap();
    assert!(!lists.changed() && lists.changed());
    assert!(lists.read_again().unwrap().0.find("10.4.0.1".parse().unwrap()).is_some());

    // Gone: a fault, told once.
    fs::remove_file(scratch.0.join("b.txt")).unwrap();
    assert!(!lists.changed() && lists.changed());
    let faults = lists.read_again().unwrap_err().to_string();
    assert!(faults.contains("b.txt: cannot be read: No such file"), "{faults}");
    assert!(!lists.changed() && !lists.changed());
    scratch.write("b.txt", "10.2.0.1/16\n");
    assert!(!lists.changed() && lists.changed());
    assert!(lists.read_again().unwrap_err().to_string().contains("host bits set"));
    scratch.write("b.txt", "10.2.0.0/16\n");
    assert!(!lists.changed() && lists.changed() && lists.read_again().is_ok());
}

#[test]
fn many_remarks_of_one_kind_are_cut() {
    let scratch = Scratch::new("many");
    let nested: String = (0..200).map(|n| format!("10.1.{n}.0/24\n")).collect();
    scratch.write("a.txt", format!("10.0.0.0/8\n{nested}"));
    let warnings = warnings(&load(&scratch, "a.txt"), &scratch);
    assert_eq!(warnings.len(), 21);
    assert!(warnings[20].ends_with("so it adds nothing; more such networks are not told of"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a file, in whatever format: networks or faults, never a panic, and each fault
    /// within the file.
    #[test]
    fn no_file_is_too_strange(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "cidr", "group", "role", "exclude", ",", ";", "\t", "\n", "\r\n", "\r", "\"", "'", "#", "!", "10.0.0.0/8",
            "10.1.0.0/16", "fc00::/7", "::1", "mta", "yes", "{", "}", "[", "]", ":", "\"prefix\"", "\"results\"",
            "\"role\"", "\"next\"", "null", "\"10.1.0.0/16\"", " ", "ö", "\u{feff}", "\u{2028}", "x",
        ]), 0..40),
        format in prop::sample::select(vec!["lines", "csv", "netbox"]),
    ) {
        let scratch = Scratch::new("strange");
        let text = pieces.concat();
        scratch.write("a", &text);
        let file = format!("internal_networks: {{ files: [{{ path: a, format: {format} }}, a] }}");
        if let Err(faults) = config::load(Some(&scratch.write("m.yaml", file))) {
            for fault in faults.iter().filter(|fault| fault.place.file.ends_with("/a")) {
                if let Some(position) = fault.place.position {
                    prop_assert!(position.line <= text.split('\n').count(), "{}", fault);
                    let line = text.split('\n').nth(position.line - 1).unwrap();
                    prop_assert!(position.column <= line.chars().count() + 1, "{} in {:?}", fault, text);
                }
            }
        }
    }
}
