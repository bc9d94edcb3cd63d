//! Tables and links that outlive the agent: pinned in a BPF file system, in a directory for their layout.
//!
//! ```text
//! /sys/fs/bpf/mailflow/          locked by the agent that runs
//!   v6/                          tables of layout 6
//!     BUCKETS, FLOWS, SUPERSEDED, ...
//!     link-ingress-eth1          a link for each place
//! ```
//!
//! A map of another layout that is reused unchecked leads to accesses outside of our memory. Each pinned map is compared with
//! the definition of the program before it is reused.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use mailflow_common::{
    Bucket, FlowCounters, FlowKey, FragmentKey, FragmentOwner, SKETCH_CELLS, SourceOverflowCounters,
    SourceOverflowKey, SupersededKey, Totals, bucket_groups,
};
use tracing::{info, warn};

use super::{bpffs, lock, reader_checkpoint::ReaderCheckpoint, stale_checkpoint::StaleCheckpointMark};
use crate::{
    error::PinError,
    flow_table::buckets::TableSizing,
    host::{hook::Direction, kernel_version::KernelVersion},
    options::LoadOptions,
};

/// Layout of the maps: raised when the meaning of a key or value changes. A number is never reused.
pub const LAYOUT: u32 = 6;
/// Environment variable for tests of another layout: its number, and after colons the layouts that can be
/// read.
const LAYOUT_VARIABLE: &str = "MAILFLOW_TEST_LAYOUT";

/// Prefix of the names of links.
const LINK_PREFIX: &str = "link-";
/// The pinned maps.
const PINNED_MAPS: [&str; 8] = [
    "BUCKETS",
    "BUCKET_INSERTIONS",
    "FLOWS",
    "SUPERSEDED",
    "OVERFLOW",
    "SOURCE_SKETCH",
    "FRAGMENTS",
    "TOTALS",
];

/// Directory of the pins, locked.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    layout: u32,
    /// Layouts that can be read.
    layouts: Vec<u32>,
    /// True if the BPF file system is in this mount namespace only.
    private: bool,
    /// Time of the checkpoint on disk.
    checkpoint_time: Option<u64>,
    lock: File,
}

/// Maps of an earlier agent with which this one cannot continue.
#[derive(Debug)]
pub(crate) struct OldMaps {
    /// Directory.
    pub(crate) directory: PathBuf,
}

impl Pins {
    /// Locks `root`. Creates it, and mounts the BPF file system, if they are missing.
    ///
    /// # Errors
    /// Another agent holds it, there is no BPF file system, or the system refuses.
    pub fn open(root: &Path) -> Result<Self, PinError> {
        bpffs::ensure_mounted(root)
            .map_err(|source| PinError::NoFileSystem { path: root.to_owned(), source })?;
        let refused = |source| PinError::Refused { path: root.to_owned(), source };
        fs::create_dir_all(root).map_err(refused)?;
        let lock = File::open(root).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(PinError::Locked { path: root.to_owned(), pid: lock::lock_holder(root) });
            }
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        let value = std::env::var(LAYOUT_VARIABLE).unwrap_or_default();
        let mut layouts: Vec<u32> = value.split(':').filter_map(|layout| layout.parse().ok()).collect();
        layouts.push(LAYOUT);
        let private = bpffs::is_private_mount(root).unwrap_or(false);
        Ok(Self { root: root.to_owned(), layout: layouts[0], layouts, private, checkpoint_time: None, lock })
    }

    /// Returns true if the pins end with the mount namespace of this process, which no other process has.
    pub fn are_private(&self) -> bool {
        self.private
    }

    /// Sets the time of the checkpoint from which the agent continues.
    #[must_use]
    pub fn with_checkpoint_time(self, checkpoint_time: Option<u64>) -> Self {
        Self { checkpoint_time, ..self }
    }

    /// Returns the directory of all layouts.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns true if the directory of all layouts is the one that is locked.
    pub(super) fn is_locked(&self) -> bool {
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        matches!((self.lock.metadata().map(id), fs::metadata(&self.root).map(id)), (Ok(own), Ok(existing)) if own == existing)
    }

    /// Locks the directory after it was created again.
    pub(super) fn relock(&mut self) -> io::Result<()> {
        let lock = File::open(&self.root)?;
        lock.try_lock()?;
        self.lock = lock;
        Ok(())
    }

    /// Creates missing directories. Returns true if one was missing.
    pub(crate) fn restore_directories(&mut self) -> io::Result<bool> {
        let (locked, directory) = (self.is_locked(), self.directory());
        if locked && directory.is_dir() {
            return Ok(false);
        }
        let existing = self.root().ancestors().find(|ancestor| ancestor.exists()).map(PathBuf::from);
        // Elsewhere the directories would be files on a disk.
        if !existing.is_some_and(|existing| bpffs::is_bpf(&existing).unwrap_or(false)) {
            let text = format!("no BPF file system at {}", self.root().display());
            return Err(io::Error::other(text));
        }
        fs::create_dir_all(&directory)?;
        if !locked {
            self.relock()?;
        }
        Ok(true)
    }

    /// Returns the directory of this layout.
    pub fn directory(&self) -> PathBuf {
        self.root.join(format!("v{}", self.layout))
    }

    /// Returns the path of a map.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Returns the maps and their paths.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        PINNED_MAPS.map(|name| (name, self.map(name))).into_iter()
    }

    /// Returns the path of the link of a place.
    pub(crate) fn link(&self, interface: &str, direction: Direction) -> PathBuf {
        self.directory().join(link_name(interface, direction))
    }

    /// Returns the links of a place in other layouts.
    pub(crate) fn other_links(&self, interface: &str, direction: Direction) -> Vec<PathBuf> {
        let name = link_name(interface, direction);
        let paths = self.other_layouts().into_iter().map(|(_, directory)| directory.join(&name));
        paths.filter(|path| path.exists()).collect()
    }

    /// Removes the links of all places but `watched`. A program that an earlier agent left there would keep
    /// counting where this agent does not look.
    pub(crate) fn remove_unwatched_links(&self, watched: &[(String, Direction)]) {
        let watched: Vec<_> = watched.iter().map(|(name, direction)| link_name(name, *direction)).collect();
        let directories =
            self.other_layouts().into_iter().map(|(_, directory)| directory).chain([self.directory()]);
        for entry in directories.filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(LINK_PREFIX) || watched.contains(&name) {
                continue;
            }
            let link = entry.path();
            match fs::remove_file(&link) {
                Ok(()) => {
                    info!(link = %link.display(), "the agent before watched there, this one does not: its link is taken away");
                }
                Err(error) => {
                    warn!(link = %link.display(), %error, "the link of the agent before cannot be taken away");
                }
            }
        }
    }

    /// Returns the generation of the maps, if there are maps: the kernel number of the flow table.
    pub fn generation(&self) -> Option<u32> {
        MapInfo::from_pin(self.map("FLOWS")).ok().map(|info| info.id())
    }

    /// Sets aside maps with which an agent with `options` cannot continue. `checkpoint` is the checkpoint
    /// with the generation of its maps. Returns the maps that can be read once.
    pub(crate) fn prepare(
        &self,
        options: &LoadOptions,
        checkpoint: Option<(u32, &ReaderCheckpoint)>,
    ) -> Result<Vec<OldMaps>, PinError> {
        let directory = self.directory();
        let refused = |source| PinError::Refused { path: directory.clone(), source };
        if directory.exists() {
            let marked = StaleCheckpointMark::of(&directory).is_marked(self.checkpoint_time);
            let reason = match mismatch(&directory, Some(options)) {
                Some(reason) => Some(reason),
                None if marked => Some("the agent before went on without a state on the disk".to_owned()),
                None => match checkpoint.filter(|(generation, _)| self.generation() == Some(*generation)) {
                    Some((_, checkpoint)) if checkpoint.prefix == options.ipv6_prefix => None,
                    Some(_) => Some("they group sources otherwise".to_owned()),
                    None if self.generation().is_some() => Some("no state belongs to them".to_owned()),
                    None => None,
                },
            };
            if let Some(reason) = reason {
                let aside = self.root.join(format!("v{}-before", self.layout));
                remove(&aside);
                warn!(tables = %directory.display(), %reason, "the pinned tables are read once more and replaced");
                fs::rename(&directory, &aside).map_err(refused)?;
            }
        }
        fs::create_dir_all(&directory).map_err(refused)?;
        let mut old = Vec::new();
        for (name, directory) in self.other_layouts() {
            if !name.starts_with("aside-") && !directory.join("FLOWS").exists() {
                remove(&directory);
            } else if mismatch(&directory, None).is_none() && self.can_read(&name) {
                old.push(OldMaps { directory });
            } else {
                let aside = self.root.join(format!("aside-{}", name.trim_start_matches("aside-")));
                if aside != directory {
                    fs::rename(&directory, &aside).map_err(refused)?;
                }
                warn!(tables = %aside.display(), "pinned tables of a layout that this agent does not know are set aside");
            }
        }
        Ok(old)
    }

    /// Removes all pins, at a stop that ends counting.
    pub(crate) fn remove_all(&self) {
        remove(&self.directory());
    }

    /// Returns the directories of other layouts.
    fn other_layouts(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let own_name = format!("v{}", self.layout);
        let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
        named.filter(|(name, path)| *name != own_name && path.is_dir()).collect()
    }

    /// Returns true if the directory has maps that this agent can read.
    fn can_read(&self, name: &str) -> bool {
        let number = name.strip_prefix('v').map(|rest| rest.trim_end_matches("-before"));
        let number = number.and_then(|number| number.parse::<u32>().ok());
        number.is_some_and(|number| self.layouts.contains(&number))
    }
}

impl OldMaps {
    /// Returns the kernel number of the flow table.
    pub(crate) fn generation(&self) -> Option<u32> {
        MapInfo::from_pin(self.map("FLOWS")).ok().map(|info| info.id())
    }

    /// Returns the path of a map.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Removes the maps.
    pub(crate) fn remove(&self) {
        info!(tables = %self.directory.display(), "the tables of the agent before were read and are removed");
        remove(&self.directory);
    }
}

fn link_name(interface: &str, direction: Direction) -> String {
    // `~` first, so that no two names become one.
    let interface = interface.replace('~', "~~").replace('.', "~");
    format!("{LINK_PREFIX}{}-{interface}", direction.name())
}

/// Removes a directory of pins, and logs what cannot be removed.
fn remove(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.map(|entry| fs::remove_file(entry.path())).find_map(Result::err);
    let removed = files.map_or_else(|| fs::remove_dir(directory), Err);
    if let Err(error) = removed
        && directory.exists()
    {
        warn!(directory = %directory.display(), %error, "pins are left");
    }
}

/// Returns why the maps in a directory cannot be used: a map has another type or size. Compares capacities if
/// options are given.
fn mismatch(directory: &Path, options: Option<&LoadOptions>) -> Option<String> {
    for (name, path) in PINNED_MAPS.map(|name| (name, directory.join(name))) {
        if !path.exists() {
            continue;
        }
        let info = match MapInfo::from_pin(&path) {
            Ok(info) => info,
            Err(error) => return Some(format!("{name} cannot be opened: {error}")),
        };
        let (kind, key, value, entries) = expected_map(name, options);
        let found = (info.map_type().ok(), info.key_size() as usize, info.value_size() as usize);
        if found != (Some(kind), key, value) {
            return Some(format!("{name} is of another layout"));
        }
        if entries.is_some_and(|entries| entries != info.max_entries()) {
            return Some(format!("{name} has room for {} entries", info.max_entries()));
        }
    }
    None
}

/// Returns type, sizes and capacity of a map.
fn expected_map(name: &str, options: Option<&LoadOptions>) -> (MapType, usize, usize, Option<u32>) {
    const WORD: usize = size_of::<u32>();
    let version = KernelVersion::running();
    let sizing = options.zip(version.ok()).map(|(options, version)| TableSizing::new(options.flows, version));
    match name {
        "BUCKETS" => {
            let buckets = sizing.map(|sizing| sizing.buckets.max(1));
            (MapType::Array, WORD, size_of::<Bucket>(), buckets)
        }
        "BUCKET_INSERTIONS" => {
            let groups = sizing.map(|sizing| bucket_groups(sizing.buckets.max(1)));
            (MapType::Array, WORD, size_of::<u64>(), groups)
        }
        "FLOWS" => {
            let flows = sizing.map(|sizing| sizing.fallback);
            (MapType::Hash, size_of::<FlowKey>(), size_of::<FlowCounters>(), flows)
        }
        "SUPERSEDED" => (MapType::Hash, size_of::<SupersededKey>(), size_of::<FlowCounters>(), None),
        "OVERFLOW" => {
            let sources = options.map(|options| options.overflow);
            (MapType::Hash, size_of::<SourceOverflowKey>(), size_of::<SourceOverflowCounters>(), sources)
        }
        "SOURCE_SKETCH" => (MapType::Array, WORD, size_of::<u64>(), Some(SKETCH_CELLS)),
        "FRAGMENTS" => (MapType::LruHash, size_of::<FragmentKey>(), size_of::<FragmentOwner>(), None),
        _ => (MapType::PerCpuArray, WORD, size_of::<Totals>(), Some(1)),
    }
}

#[cfg(test)]
mod tests {
    use mailflow_common::{BucketSlot, FlowTableKey, HashKeys, MapEntry, Scope, Vlans, bucket_index, tag_of};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::flow_table::element;

    /// The hash changes with the fields of keys and values. If the hash differs, set the new one here, and raise
    /// [`LAYOUT`] if the meaning of a field changed.
    #[test]
    fn the_layout_is_that_of_the_sources() {
        let sources = [
            include_str!("../../../../mailflow-common/src/counters.rs"),
            include_str!("../../../../mailflow-common/src/flow_key.rs"),
            include_str!("../../../../mailflow-common/src/keyed_hash.rs"),
            include_str!("../../../../mailflow-common/src/table_key.rs"),
            include_str!("../../../../mailflow-common/src/bucket.rs"),
            include_str!("../../../../mailflow-common/src/source_limit.rs"),
            include_str!("../../../../mailflow-common/src/totals.rs"),
        ];
        let mut hash = Sha256::new();
        for line in sources.iter().flat_map(|source| source.lines()).map(str::trim) {
            // Fields of the structs: `pub name: type,`.
            if line.starts_with("pub ") && line.ends_with(',') && line.contains(": ") {
                hash.update(line);
            }
        }
        let hash: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((LAYOUT, hash.as_str()), (6, "5ea13b8e"));
    }

    /// The layout includes the table key of a flow, and the hash that chooses its bucket.
    #[test]
    fn table_keys_and_buckets_belong_to_the_layout() {
        let layout_of = |client: &str, server: &str| {
            let [client, server] = [client, server].map(|end| end.parse::<std::net::IpAddr>().unwrap());
            let scope = Scope::new(Vlans::default().push(7), 6, client.is_ipv6());
            let (client, server) = (client.into(), server.into());
            let key = FlowKey { client, server, client_port: 40_000, server_port: 25, scope };
            let (table_key, remainder) = FlowTableKey::of(&key);
            let slot = BucketSlot { key: table_key, entry: MapEntry { remainder, ..MapEntry::default() } };
            let bytes = element::bytes(&[slot]).to_vec();
            let (head, tail) = (
                &bytes[..size_of::<FlowTableKey>()],
                &bytes[size_of::<FlowTableKey>() + size_of::<FlowCounters>()..],
            );
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let mut word = 3_u64;
            let keys = HashKeys::draw(|| {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                word
            });
            let tag = tag_of(keys.flow(&table_key, &remainder));
            let bucket = (tag, bucket_index(tag, 1_000));
            (hex(head), hex(tail), bucket)
        };
        let expected = [
            (
                ("10.1.2.3", "198.51.100.4"),
                ("0a010203c63364041900409c07000006", "0".repeat(48), (4_719_967_015_757_930_658, 255)),
            ),
            (
                ("2001:db8:1:2:3:4:5:6", "2001:db8:9::25"),
                (
                    "00030004000500061900409c07000086",
                    "0001000220010db80009000020010db80000002500000000".to_owned(),
                    (7_871_943_975_354_033_146, 426),
                ),
            ),
        ];
        for ((client, server), (key, remainder, bucket)) in expected {
            assert_eq!(layout_of(client, server), (key.to_owned(), remainder, bucket), "{LAYOUT}");
        }
    }

    #[test]
    fn link_names_have_no_dots_and_stay_distinct() {
        let name = |interface| link_name(interface, Direction::Egress);
        assert_eq!(name("eth0.100"), "link-egress-eth0~100");
        assert_ne!(name("a~b"), name("a.b"));
    }
}
