//! Network lists in each format: their contents, and every error with its location.

use std::fs;

use mailflow_agent::config::{self, Config};
use mailflow_engine::network::AssetRole;
use proptest::prelude::*;

use super::networks::Scratch;

/// Returns prefix (with `!`), line, group, role and origin of every network.
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
fn table_columns_are_found_by_name() {
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
fn separators_and_missing_extension_are_detected() {
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
fn file_settings_are_defaults_of_lines() {
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
fn table_errors_have_line_and_column() {
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
    let other = format!("unknown column; expected {names}, or set other_columns: ignore for this file");
    let empty = "the file contains no network in use; an empty list is usually a failed export";
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
            "a.csv:6:18: \"b\": more fields than the 5 columns; put a field that contains \",\" in quotes"
                .to_owned(),
            "a.csv:9:25: \"or 6\"\": more fields than the 5 columns; put a field that contains \",\" in quotes".to_owned(),
            "a.csv:10:14: \"\"x\"\": a quote must be the first character of its field, without a space before it".to_owned(),
            "a.csv:11:16: \"no end\\n10.6.0.0/16\": a line break in a field; is a quote missing?".to_owned(),
            "b.csv:2:6: \"gruop\": unknown column; did you mean group?".to_owned(),
            format!("b.csv:2:12: \"site\": {other}"),
            "b.csv:2:17: \"Network\": another column has the same meaning".to_owned(),
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
fn foreign_columns_may_be_ignored_by_name() {
    let scratch = Scratch::new("other");
    scratch.write("a.csv", "ID,Prefix,VRF\n1,10.1.0.0/16,blue\n");
    assert_eq!(scratch.faults("internal_networks: { files: [a.csv] }").len(), 2);
    let config = load(&scratch, "{ path: a.csv, other_columns: ignore }");
    assert_eq!(shown(&config, &scratch), ["10.1.0.0/16 | 10.1.0.0/16 | - | - | a.csv:2"]);
}

/// NetBox 4 answer, without the fields that the agent ignores.
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
fn netbox_gives_prefixes_tenants_and_roles() {
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
    assert_eq!(warnings.len(), 1, "a role is reported once: {warnings:?}");
    assert!(
        warnings[0].starts_with("a.json:7:3: \"lan\": unknown role, expected one of workstation, server")
    );

    // Only the list, in a file without an extension, on one line.
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
fn prefix_in_two_vrfs_is_warned() {
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
        "a.json:2:1: \"10.1.0.0/16\": this network was listed before, at a.json:1:2, in another VRF; this entry takes effect"
    );
}

#[test]
fn netbox_errors_have_line_and_column() {
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
    let expected = "expected a response of NetBox's /api/ipam/prefixes/, or the list of its results";
    assert_eq!(
        scratch.faults("internal_networks: { files: [a.json, b.json, c.json, d.json, e.json, f.json] }"),
        [
            "a.json:2:2: \"10.1.0.1/16\": host bits set; did you mean 10.1.0.0/16?".to_owned(),
            format!("a.json:3:13: {expected}: invalid type: integer `7`, expected a string"),
            format!("a.json:3:29: {expected}: missing field `prefix`"),
            format!("a.json:3:32: {expected}: invalid type: integer `5`, expected an object with a prefix"),
            "a.json:5:30: \"a,b\": expected the name of a group: 1 to 64 characters, no comma".to_owned(),
            "b.json:2:28: not valid JSON: expected `,` or `}`".to_owned(),
            format!("c.json:1:14: {expected}: missing field `results`"),
            "d.json:1:1: \"next\": one page of several (\"next\" is not null); request all prefixes with ?limit=0"
                .to_owned(),
            "e.json:1:1: the file contains no network in use; an empty list is usually a failed export".to_owned(),
            format!("f.json:1:4: {expected}: invalid type: floating point `10.6`, expected an object with results"),
        ]
    );
}

/// Lines end with LF, with CR LF, or with CR alone, as some exports write them.
#[test]
fn a_carriage_return_ends_a_line_in_every_format() {
    for (name, end) in [("cr", "\r"), ("lf", "\n"), ("crlf", "\r\n")] {
        let scratch = Scratch::new(&format!("ends-{name}"));
        let write = |file: &str, lines: &[&str]| {
            scratch.write(file, lines.iter().map(|line| format!("{line}{end}")).collect::<String>())
        };
        write("a.txt", &["# offices", "10.1.0.0/16  Berlin", "", "10.2.0.0/16"]);
        write("b.csv", &["# made by hand", "cidr,comment", "# one", "10.3.0.0/16,x", "10.4.0.0/16,y"]);
        write("c.json", &["[", "{\"prefix\":\"10.5.0.0/16\"},", "{\"prefix\":\"10.6.0.0/16\"}]"]);
        let config = load(&scratch, "a.txt, b.csv, c.json");
        assert_eq!(
            shown(&config, &scratch),
            [
                "10.1.0.0/16 | 10.1.0.0/16  Berlin | - | - | a.txt:2",
                "10.2.0.0/16 | 10.2.0.0/16 | - | - | a.txt:4",
                "10.3.0.0/16 | 10.3.0.0/16  x | - | - | b.csv:4",
                "10.4.0.0/16 | 10.4.0.0/16  y | - | - | b.csv:5",
                "10.5.0.0/16 | 10.5.0.0/16 | - | - | c.json:2",
                "10.6.0.0/16 | 10.6.0.0/16 | - | - | c.json:3",
            ],
            "{name}"
        );
        write("a.txt", &["10.1.0.0/16", "oops"]);
        write("b.csv", &["cidr,role", "10.3.0.0/16,mtaa"]);
        write("c.json", &["[", "{\"prefix\":7}]"]);
        let faults = scratch.faults("internal_networks: { files: [a.txt, b.csv, c.json] }");
        let places: Vec<_> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["a.txt:2:1", "b.csv:2:13", "c.json:2:11"], "{name}");
    }
    let scratch = Scratch::new("ends-mixed");
    scratch.write("a.txt", "10.1.0.0/16\r10.2.0.0/16\n10.3.0.0/16\r\n\r10.4.0.0/16\n\r10.5.0.0/16");
    let lines: Vec<_> = shown(&load(&scratch, "a.txt"), &scratch)
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(lines, ["a.txt:1", "a.txt:2", "a.txt:3", "a.txt:5", "a.txt:7"]);
}

#[test]
fn second_network_on_a_line_is_an_error() {
    let scratch = Scratch::new("two");
    scratch.write(
        "a.txt",
        "10.1.0.0/16 10.2.0.0/16\n\
         10.3.0.0/16, !10.3.1.0/24\n\
         10.4.0.0/16,10.5.0.0/16\n\
         10.6.0.0/16 Berlin 10.7.0.0/16 Hamburg\n\
         10.8.0.0 10.8.0.9\n\
         10.9.0.0 255.255.0.0\n\
         10.10.0.0/16\t|\tfd00::/8\n\
         10.11.0.0/16\u{2028}10.12.0.0/16\n\
         10.20.0.0/16  was 192.0.2.1 before\n\
         10.21.0.0/16  Berlin # was 10.22.0.0/16\n",
    );
    scratch.write("b.csv", "cidr,comment\n\"10.30.0.0/16, 10.31.0.0/16\",x\n10.32.0.0/16 10.33.0.0/16\n");
    scratch.write("c.json", "[{\"prefix\": \"10.40.0.0/16 10.41.0.0/16\"}]");
    let text = "internal_networks: { networks: [10.50.0.0/16 10.51.0.0/16], files: [a.txt, b.csv, c.json] }";
    let two = |place: &str, first: &str, second: &str| {
        format!(
            "{place}: a second network, {second}, after {first}: put each network on a line of its own, or put this one behind # as a comment"
        )
    };
    let inner = |place: &str, first: &str, second: &str| {
        format!("{place}: two networks, {first} and {second}; expected one")
    };
    assert_eq!(
        scratch.faults(text),
        [
            inner(
                "m.yaml:1:33: internal_networks.networks[0]: \"10.50.0.0/16 10.51.0.0/16\"",
                "10.50.0.0/16",
                "10.51.0.0/16"
            ),
            two("a.txt:1:13: \"10.2.0.0/16\"", "10.1.0.0/16", "10.2.0.0/16"),
            two("a.txt:2:14: \"!10.3.1.0/24\"", "10.3.0.0/16", "!10.3.1.0/24"),
            inner("a.txt:3:1: \"10.4.0.0/16,10.5.0.0/16\"", "10.4.0.0/16", "10.5.0.0/16"),
            two("a.txt:4:20: \"10.7.0.0/16\"", "10.6.0.0/16", "10.7.0.0/16"),
            two("a.txt:5:10: \"10.8.0.9\"", "10.8.0.0", "10.8.0.9"),
            two("a.txt:6:10: \"255.255.0.0\"", "10.9.0.0", "255.255.0.0"),
            two("a.txt:7:16: \"fd00::/8\"", "10.10.0.0/16", "fd00::/8"),
            two("a.txt:8:14: \"10.12.0.0/16\"", "10.11.0.0/16", "10.12.0.0/16"),
            inner("b.csv:2:1: \"10.30.0.0/16, 10.31.0.0/16\"", "10.30.0.0/16", "10.31.0.0/16"),
            inner("b.csv:3:1: \"10.32.0.0/16 10.33.0.0/16\"", "10.32.0.0/16", "10.33.0.0/16"),
            inner("c.json:1:2: \"10.40.0.0/16 10.41.0.0/16\"", "10.40.0.0/16", "10.41.0.0/16"),
        ]
    );
}

#[test]
fn equal_duplicates_are_warnings_and_different_ones_errors() {
    let scratch = Scratch::new("duplicates");
    scratch.write("a.txt", "10.1.0.0/16  Berlin\n10.2.0.0/16\n10.1.0.0/16\n10.1.0.0/16\n");
    scratch.write("b.csv", "cidr,group\n10.3.0.0/16,x\n10.3.0.0/16,x\n");
    let config = load(&scratch, "a.txt, b.csv");
    let again = |place: &str, first: &str| {
        format!("{place}: this network was listed before, at {first}, with the same settings; it counts once")
    };
    assert_eq!(
        warnings(&config, &scratch),
        [
            again("a.txt:3:1: \"10.1.0.0/16\"", "a.txt:1:1"),
            again("a.txt:4:1: \"10.1.0.0/16\"", "a.txt:1:1"),
            again("b.csv:3:1: \"10.3.0.0/16\"", "b.csv:2:1"),
        ]
    );
    assert_eq!(config.engine.internal.networks().len(), 3);
    assert_eq!(config.engine.internal.networks()[0].line, "10.1.0.0/16  Berlin", "the first one stays");
    scratch.write("a.txt", "10.1.0.0/16\n!10.1.0.0/16\n");
    scratch.write("b.csv", "cidr,group,role\n10.3.0.0/16,x,\n10.3.0.0/16,y,\n10.3.0.0/16,x,mta\n");
    assert_eq!(
        scratch.faults("internal_networks: { files: [a.txt, b.csv] }"),
        [
            "a.txt:2:1: \"!10.1.0.0/16\": this network is both internal and excluded; the other entry is at a.txt:1:1",
            "b.csv:3:1: \"10.3.0.0/16\": this network was listed before, at b.csv:2:1, with another group",
            "b.csv:4:1: \"10.3.0.0/16\": this network was listed before, at b.csv:2:1, with another role",
        ]
    );
}

/// Each file has at most one hundred errors, and the number of further ones.
#[test]
fn errors_and_warnings_are_limited_per_file() {
    let scratch = Scratch::new("capped");
    let bad = |rows: usize, head: &str, row: &str| format!("{head}{}", row.repeat(rows));
    scratch.write("a.csv", bad(100_000, "cidr,role\n", "10.0.0.1/8,mtaa\n"));
    scratch.write("b.txt", bad(101, "", "oops\n"));
    scratch.write("c.json", format!("[{}{{}}]", "{\"prefix\": 7},".repeat(1_000)));
    let text = "internal_networks: { files: [a.csv, b.txt, c.json] }\nsources: 1\n";
    let faults = scratch.faults(text);
    let of = |file: &str| faults.iter().filter(|fault| fault.starts_with(file)).collect::<Vec<_>>();
    assert_eq!(faults[0], "m.yaml:2:10: sources: \"1\": expected a mapping (key: value)");
    assert_eq!([of("a.csv").len(), of("b.txt").len(), of("c.json").len()], [101, 101, 101]);
    assert!(of("a.csv")[99].starts_with("a.csv:51:12: \"mtaa\": "), "{}", of("a.csv")[99]);
    assert_eq!(of("a.csv")[100], "a.csv: and 199,900 more errors");
    assert_eq!(of("b.txt")[100], "b.txt: and 1 more error");
    assert_eq!(of("c.json")[100], "c.json: and 901 more errors");

    scratch.write("a.csv", "x,".repeat(1_000));
    let faults = scratch.faults("internal_networks: { files: [a.csv] }");
    assert_eq!((faults.len(), faults[100].as_str()), (101, "a.csv: and 901 more errors"));

    // The configuration's own errors and the warnings are limited too.
    let keys: String = (0..300).map(|n| format!("unknown{n}: 1\n")).collect();
    let faults = scratch.faults(keys);
    assert_eq!((faults.len(), faults[100].as_str()), (101, "m.yaml: and 200 more errors"));
    scratch.write("a.txt", "10.1.0.0/16\n".repeat(501));
    let warnings = warnings(&load(&scratch, "a.txt"), &scratch);
    assert_eq!((warnings.len(), warnings[100].as_str()), (101, "a.txt: and 400 more warnings"));
}

/// Any file type at a list's path is an error; the agent neither blocks on it nor reads it without end.
#[test]
fn list_must_be_a_regular_text_file() {
    let scratch = Scratch::new("kinds");
    let fifo = std::ffi::CString::new(scratch.0.join("fifo").to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string that lives until the call returns.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    fs::create_dir(scratch.0.join("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scratch.0.join("socket")).unwrap();
    let utf16 = |mark: &[u8], bytes: fn(u16) -> [u8; 2]| {
        let text = "10.1.0.0/16\n".encode_utf16().flat_map(bytes);
        mark.iter().copied().chain(text).collect::<Vec<u8>>()
    };
    scratch.write("le", utf16(&[0xff, 0xfe], u16::to_le_bytes));
    scratch.write("be", utf16(&[0xfe, 0xff], u16::to_be_bytes));
    scratch.write("bare", utf16(&[], u16::to_le_bytes));
    scratch.write("nul", "10.1.0.0/16\n10.2.0.0/16\0\n");
    let text = "internal_networks: { files: [fifo, directory, socket, /dev/zero, le, be, bare, nul] }";
    let odd = |column: usize, index: usize, name: &str, why: &str| {
        format!("m.yaml:1:{column}: internal_networks.files[{index}]: \"{name}\": {name}: {why}")
    };
    let utf16 = "the file is UTF-16; expected UTF-8";
    assert_eq!(
        scratch.faults(text),
        [
            odd(30, 0, "fifo", "a FIFO; expected a regular file"),
            odd(36, 1, "directory", "a directory; expected a regular file"),
            odd(47, 2, "socket", "a socket; expected a regular file"),
            odd(55, 3, "/dev/zero", "a device; expected a regular file"),
            format!("le:1:1: {utf16}"),
            format!("be:1:1: {utf16}"),
            "bare:1:2: NUL byte; expected UTF-8 text".to_owned(),
            "nul:2:12: NUL byte; expected UTF-8 text".to_owned(),
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
fn changed_file_is_read_once_stable_and_valid() {
    let scratch = Scratch::new("reload");
    scratch.write("a.txt", "10.1.0.0/16\n");
    scratch.write("b.txt", "10.2.0.0/16\n");
    let mut lists = load(&scratch, "a.txt, b.txt").lists;
    assert_eq!(lists.files().count(), 2);
    assert!(!lists.take_settled_change() && !lists.take_settled_change());

    // The file is being written: the agent waits until it stays unchanged.
    scratch.write("a.txt", "10.1.0.0/16\n10.3.0");
    assert!(!lists.take_settled_change());
    scratch.write("a.txt", "10.1.0.0/16\n10.3.0.0/16\n");
    assert!(!lists.take_settled_change());
    assert!(lists.take_settled_change());
    let (networks, warnings) = lists.reload().unwrap();
    assert_eq!((networks.networks().len(), warnings.len()), (3, 0));
    assert!(!lists.take_settled_change() && !lists.take_settled_change());

    // Replaced by another file with the same size and time.
    let time = fs::metadata(scratch.0.join("b.txt")).unwrap().modified().unwrap();
    let other = scratch.write("c.txt", "10.4.0.0/16\n");
    fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(other, scratch.0.join("b.txt")).unwrap();
    assert!(!lists.take_settled_change() && lists.take_settled_change());
    assert!(lists.reload().unwrap().0.find("10.4.0.1".parse().unwrap()).is_some());

    // Modified during a read: the change is detected, and the file is read again once it stays unchanged.
    scratch.write("a.txt", "10.1.0.0/16\n");
    assert!(!lists.take_settled_change() && lists.take_settled_change() && !lists.is_outdated());
    assert!(lists.reload().is_ok());
    scratch.write("a.txt", "10.1.0.0/16\n10.3.0.0/16\n10.5.0.0/16\n");
    assert!(lists.is_outdated() && !lists.take_settled_change() && lists.take_settled_change());
    assert_eq!(lists.reload().unwrap().0.networks().len(), 4);

    // A removed file is an error, reported once.
    fs::remove_file(scratch.0.join("b.txt")).unwrap();
    assert!(!lists.take_settled_change() && lists.take_settled_change());
    let faults = lists.reload().unwrap_err().to_string();
    assert!(faults.contains("b.txt: cannot be read: No such file"), "{faults}");
    assert!(!lists.take_settled_change() && !lists.take_settled_change());
    scratch.write("b.txt", "10.2.0.1/16\n");
    assert!(!lists.take_settled_change() && lists.take_settled_change());
    assert!(lists.reload().unwrap_err().to_string().contains("host bits set"));
    scratch.write("b.txt", "10.2.0.0/16\n");
    assert!(!lists.take_settled_change() && lists.take_settled_change() && lists.reload().is_ok());
}

#[test]
fn warnings_of_one_kind_are_limited() {
    let scratch = Scratch::new("many");
    let nested: String = (0..200).map(|n| format!("10.1.{n}.0/24\n")).collect();
    scratch.write("a.txt", format!("10.0.0.0/8\n{nested}"));
    let warnings = warnings(&load(&scratch, "a.txt"), &scratch);
    assert_eq!(warnings.len(), 21);
    assert!(warnings[20].ends_with("so it has no effect; further such networks are not reported"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any contents in any format give networks or errors, never a panic, and each error lies within the
    /// file.
    #[test]
    fn any_list_gives_networks_or_errors(
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
            for fault in faults.iter().filter(|fault| fault.location.file.ends_with("/a")) {
                if let Some(position) = fault.location.position {
                    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
                    prop_assert!(position.line <= lines.split('\n').count(), "{}", fault);
                    let line = lines.split('\n').nth(position.line - 1).unwrap();
                    prop_assert!(position.column <= line.chars().count() + 1, "{} in {:?}", fault, text);
                }
            }
        }
    }
}
