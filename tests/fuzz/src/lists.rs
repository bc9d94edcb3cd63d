//! NetworkLists of networks: lines, tables, and NetBox answers.

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::FileExt,
    },
    sync::LazyLock,
};

use ipnet::IpNet;
use mailflow_agent::config::{self, Diagnostic, Diagnostics, NetworkLists};
use mailflow_engine::network::{AssetRole, Network, Networks};

use crate::faults;

/// List in memory, and the configuration that names it.
struct List {
    file: File,
    path: String,
    lists: NetworkLists,
}

impl List {
    /// Creates a list of this format.
    fn new(format: &str, more: &str) -> Self {
        // SAFETY: memfd_create(2) reads a name that ends with a NUL, and returns a descriptor or an error.
        let descriptor = unsafe { libc::memfd_create(c"list".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the descriptor is open, and no other owner exists.
        let file = unsafe { File::from_raw_fd(descriptor) };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let text = format!(
            "internal_networks: {{ networks: [192.0.2.0/24], files: [{{ path: {path}, format: {format}{more} }}] }}"
        );
        let good = match format {
            "csv" => "cidr\n10.0.0.0/8\n",
            "netbox" => "[{\"prefix\":\"10.0.0.0/8\"}]",
            _ => "10.0.0.0/8\n",
        };
        file.write_all_at(good.as_bytes(), 0).unwrap();
        let lists = config::parse("/nonexistent/mailflow.yaml", &text).unwrap().lists;
        Self { file, path, lists }
    }

    /// Reads the list with these contents; returns its networks, without those of the configuration, and the
    /// warnings.
    fn read(&self, text: &[u8]) -> Result<(Vec<Network>, Vec<Diagnostic>), Diagnostics> {
        self.file.set_len(0).unwrap();
        self.file.write_all_at(text, 0).unwrap();
        let result = self.lists.clone().reload();
        let of_list = |networks: Networks| -> Vec<Network> {
            let all = networks.networks();
            // The last entry decides among entries of one prefix in several VRFs.
            let decides = |index: usize| !all[index + 1..].iter().any(|other| other.net == all[index].net);
            let here = |network: &Network| network.origin.as_ref().is_some_and(|at| *at.file == *self.path);
            let listed = all.iter().enumerate().filter(|(index, network)| here(network) && decides(*index));
            listed.map(|(_, network)| network.clone()).collect()
        };
        result.map(|(networks, warnings)| (of_list(networks), warnings))
    }

    /// Reads the list with these contents, and checks the diagnostics.
    fn checked(&self, text: &[u8]) -> Option<Vec<Network>> {
        let found = self.read(text);
        // Each network is a line, a row or an object.
        match &found {
            Ok((networks, warnings)) => {
                faults::check(warnings, &self.path, text);
                assert!(networks.len() <= text.len() / 2, "{} networks", networks.len());
            }
            Err(faults) => {
                assert!(faults.count() > 0);
                faults::check(faults.iter(), &self.path, text);
            }
        }
        let with_crlf = String::from_utf8_lossy(text).replace('\n', "\r\n").into_bytes();
        if found.is_ok() && !text.contains(&b'\r') {
            let other =
                self.read(&with_crlf).map(|(networks, warnings)| (meaning(&networks), warnings.len()));
            let this = found.as_ref().map(|(networks, warnings)| (meaning(networks), warnings.len())).ok();
            assert_eq!(other.as_ref().ok(), this.as_ref(), "with CRLF: {:?}", other.as_ref().err());
        }
        found.ok().map(|(networks, _)| networks)
    }
}

/// Fields of a network that rules read.
type Meaning<'a> = (IpNet, bool, Option<&'a str>, Option<AssetRole>);

fn meaning(networks: &[Network]) -> Vec<(IpNet, bool, Option<String>, Option<AssetRole>)> {
    let one = |network: &Network| (network.net, network.exclude, network.group.clone(), network.role);
    networks.iter().map(one).collect()
}

fn borrowed(network: &Network) -> Meaning<'_> {
    (network.net, network.exclude, network.group.as_deref(), network.role)
}

static LINES: LazyLock<List> = LazyLock::new(|| List::new("lines", ""));
static CSV: LazyLock<List> = LazyLock::new(|| List::new("csv", ""));
static CSV_OF_OTHERS: LazyLock<List> = LazyLock::new(|| List::new("csv", ", other_columns: ignore"));
static NETBOX: LazyLock<List> = LazyLock::new(|| List::new("netbox", ""));

/// Reads a list of lines.
pub(crate) fn lines(data: &[u8]) {
    if let Some(networks) = LINES.checked(data) {
        as_lines(&networks);
    }
}

/// Reads a table.
pub(crate) fn csv(data: &[u8]) {
    if let Some(networks) = CSV.checked(data) {
        as_lines(&networks);
        as_table(&networks);
        // Without foreign columns, the setting that ignores them changes nothing.
        let ignoring = CSV_OF_OTHERS.read(data).map(|(networks, _)| meaning(&networks));
        assert_eq!(ignoring.ok(), Some(meaning(&networks)));
    } else {
        CSV_OF_OTHERS.checked(data);
    }
}

/// Reads a NetBox answer.
pub(crate) fn netbox(data: &[u8]) {
    if let Some(networks) = NETBOX.checked(data) {
        as_lines(&networks);
        as_table(&networks);
    }
}

/// Writes the networks as lines, and reads them back.
fn as_lines(networks: &[Network]) {
    let line = |network: &Network| format!("{}{}\n", if network.exclude { "!" } else { "" }, network.net);
    let text: String = networks.iter().map(line).collect();
    let again = LINES.read(text.as_bytes()).map(|(networks, _)| networks);
    let bare = |network: &Network| (network.net, network.exclude);
    let again: Vec<_> = again.unwrap_or_else(|faults| panic!("{faults}")).iter().map(bare).collect();
    assert_eq!(again, networks.iter().map(bare).collect::<Vec<_>>(), "as lines");
}

/// Writes the networks as a table, and reads it back.
fn as_table(networks: &[Network]) {
    let mut text = "exclude,cidr,group,role\n".to_owned();
    for (net, exclude, group, role) in networks.iter().map(borrowed) {
        let group = group.unwrap_or_default().replace('"', "\"\"");
        let exclude = if exclude { "yes" } else { "" };
        text += &format!("{exclude},{net},\"{group}\",{}\n", role.map_or("", AssetRole::name));
    }
    let again = CSV.read(text.as_bytes()).unwrap_or_else(|faults| panic!("{text}: {faults}"));
    assert_eq!(meaning(&again.0), meaning(networks), "as a table: {text}");
}
