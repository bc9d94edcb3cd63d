//! Loading of the object: its maps, and the programs of the roles that are configured.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    os::fd::{AsFd, AsRawFd},
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfLoader, Pod, VerifierLogLevel,
    maps::{Array, Map, MapData, PerCpuArray},
    programs::{Program, SchedClassifier, Xdp},
};
use mailflow_common::{
    EntryCounts, HashKeys, IdleTimeoutTicks, PORT_WORDS, PortSet, SKETCH_CELLS, SKETCH_KEY_OFFSET,
    SourceLimit, Totals, bucket_groups,
};

use super::{log::KernelLog, names, object_compat};
use crate::{
    error::KernelError,
    flow_table::{
        buckets::{BucketTable, TableSizing},
        element,
        reader::TableMaps,
    },
    host::{capabilities, kernel_version::KernelVersion, memory},
    options::{LoadOptions, Programs},
    persist::pins::Pins,
};

/// Value of a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct MapValue<T>(T);

// SAFETY: words and arrays of words in #[repr(C)], without padding, of which all bits are valid.
unsafe impl Pod for MapValue<Totals> {}
// SAFETY: as above.
unsafe impl Pod for MapValue<[u64; PORT_WORDS]> {}
// SAFETY: as above.
unsafe impl Pod for MapValue<IdleTimeoutTicks> {}
// SAFETY: as above.
unsafe impl Pod for MapValue<SourceLimit> {}
// SAFETY: as above.
unsafe impl Pod for MapValue<EntryCounts> {}

/// Program that publishes the ticks; always loaded.
pub(crate) const TICK_PROGRAM: &str = "ticks";
/// Threads that load programs, besides the first. Each has a buffer for the verifier log.
const MAX_LOADER_THREADS: usize = 7;
/// Program that evicts flows.
pub(crate) const EVICT_PROGRAM: &str = "remove_flows";

/// Loaded object.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    /// Names of the loaded programs.
    pub(crate) programs: BTreeSet<String>,
    pub(crate) version: KernelVersion,
    pub(crate) log: KernelLog,
    /// Length of the IPv6 prefix that makes a source.
    pub(crate) ipv6_prefix: u8,
    /// Largest number of entries that clients alone may insert: flows, and sources.
    half_open: EntryCounts,
    /// True if `host` interfaces count only this machine.
    pub(crate) local_only: bool,
    /// Buckets of the flow table, if it has any.
    pub(crate) buckets: Option<BucketTable>,
}

impl Loaded {
    /// Loads `object`, with its maps pinned or taken over from pins.
    pub(crate) fn new(
        object: &[u8],
        options: &LoadOptions,
        pins: Option<&Pins>,
    ) -> Result<Self, KernelError> {
        let version = KernelVersion::running()?;
        capabilities::check_capabilities()?;
        memory::lift_memory_limit(version);
        let local_only = u32::from(options.local_only);
        let clock = u32::from(options.external_clock);
        let sizing = TableSizing::new(options.flows, version);
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries("BUCKETS", sizing.buckets.max(1))
            .map_max_entries("BUCKET_INSERTIONS", bucket_groups(sizing.buckets.max(1)))
            .map_max_entries("FLOWS", sizing.fallback)
            .map_max_entries("OVERFLOW", options.overflow)
            .override_global("LOCAL_ONLY", &local_only, true)
            .override_global("CLOCK", &clock, true)
            .override_global("BUCKET_COUNT", &sizing.buckets, true);
        for (name, path) in pins.into_iter().flat_map(Pins::maps) {
            loader.map_pin_path(name, path);
        }
        let level = KernelLog::number(options.kernel_log);
        KernelLog::configure(&mut loader, options.kernel_log, &level);
        let object = object_compat::for_kernel(object, version)?;
        let mut ebpf = loader.load(&object).map_err(|error| KernelError::Load(Box::new(error)))?;
        let log = KernelLog::open(&mut ebpf, options.kernel_log);
        let LoadOptions { ipv6_prefix, local_only, .. } = *options;
        let programs = BTreeSet::new();
        let half_open = half_open(options);
        let mut loaded =
            Self { ebpf, programs, version, log, ipv6_prefix, half_open, local_only, buckets: None };
        loaded.load_programs(&options.programs)?;
        loaded.set_entry_limits(EntryCounts { flows: 0, sources: 0 }, (0, 0))?;
        let source_limit = loaded.set_source_limit(options)?;
        if sizing.buckets != 0 {
            let [buckets, inserted, sketch] =
                ["BUCKETS", "BUCKET_INSERTIONS", "SOURCE_SKETCH"].map(|name| loaded.array(name));
            let buckets =
                BucketTable::open_for_eviction(buckets?, sizing.buckets, inserted?, sketch?, source_limit);
            loaded.buckets = Some(buckets.map_err(KernelError::FlowTable)?);
        }
        Ok(loaded)
    }

    /// Loads the selected programs, and the two that belong to no role. A kernel may refuse programs for frames in
    /// several buffers; every other one must load.
    ///
    /// Verification takes most of the time of a start, on one CPU for each program: as many programs are
    /// loaded at the same time as there are CPUs.
    fn load_programs(&mut self, programs: &Programs) -> Result<(), KernelError> {
        let version = self.version;
        let selected = self.ebpf.programs_mut().filter(|(name, program)| {
            let is_selected = *name == TICK_PROGRAM
                || *name == EVICT_PROGRAM
                || match programs {
                    Programs::All => true,
                    Programs::Roles(roles) => names::role_of(name).is_some_and(|role| roles.contains(&role)),
                    Programs::One(one) => name == one,
                };
            let is_refused = name.ends_with("_frags") && version < KernelVersion::XDP_FRAGS;
            is_selected && !is_refused && matches!(program, Program::Xdp(_) | Program::SchedClassifier(_))
        });
        let queue = Mutex::new(selected);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let mut loaded = Vec::new();
            while let Some((name, program)) = next() {
                let result = match program {
                    Program::Xdp(program) => program.load(),
                    Program::SchedClassifier(program) => program.load(),
                    _ => continue,
                };
                result.map_err(|source| KernelError::Program {
                    program: name.to_owned(),
                    source: Box::new(source),
                })?;
                loaded.push(name.to_owned());
            }
            Ok(loaded)
        };
        let extra_threads =
            thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1).min(MAX_LOADER_THREADS);
        let loaded = thread::scope(|scope| {
            // Where the system gives no thread, the others load more.
            let start = |_| thread::Builder::new().name("load".to_owned()).spawn_scoped(scope, work).ok();
            let started: Vec<_> = (0..extra_threads).filter_map(start).collect();
            let own_programs = work();
            let joined = started
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            joined.chain([own_programs]).collect::<Result<Vec<_>, KernelError>>()
        })?;
        self.programs.extend(loaded.into_iter().flatten());
        Ok(())
    }

    pub(crate) fn xdp(&mut self, name: &str) -> Option<&mut Xdp> {
        self.ebpf.program_mut(name)?.try_into().ok()
    }

    pub(crate) fn classifier(&mut self, name: &str) -> Option<&mut SchedClassifier> {
        self.ebpf.program_mut(name)?.try_into().ok()
    }

    pub(crate) fn verified_instructions(&self, name: &str) -> Option<u32> {
        let info = match self.ebpf.program(name)? {
            Program::Xdp(program) => program.info(),
            Program::SchedClassifier(program) => program.info(),
            _ => return None,
        };
        info.ok()?.verified_instruction_count()
    }

    /// Sets the watched ports; packets pass meanwhile.
    pub(crate) fn set_ports(&mut self, ports: &PortSet) -> Result<(), KernelError> {
        let mut map: Array<_, MapValue<[u64; PORT_WORDS]>> = self.data(".data.ports")?;
        map.set(0, MapValue(*ports.words()), 0).map_err(map_error(".data.ports"))
    }

    /// Sets the idle timeouts, while packets pass.
    pub(crate) fn set_timeouts(&mut self, timeouts: IdleTimeoutTicks) -> Result<(), KernelError> {
        let mut map: Array<_, MapValue<IdleTimeoutTicks>> = self.data(".data.idle_timeouts")?;
        map.set(0, MapValue(timeouts), 0).map_err(map_error(".data.idle_timeouts"))
    }

    /// Sets the limit of flows of a source.
    fn set_source_limit(&mut self, options: &LoadOptions) -> Result<SourceLimit, KernelError> {
        let keys = options.hash_keys.map_or_else(|| self.hash_keys(), Ok)?;
        let mut map: Array<_, MapValue<SourceLimit>> = self.data(".data.source_limit")?;
        let source_limit = SourceLimit {
            mask: SourceLimit::mask(options.ipv6_prefix),
            keys,
            max_flows: u64::from(options.flows_per_source),
        };
        map.set(0, MapValue(source_limit), 0).map_err(map_error(".data.source_limit"))?;
        Ok(source_limit)
    }

    /// Returns the number of entries that the program has inserted.
    pub(crate) fn entries_inserted(&mut self) -> Result<EntryCounts, KernelError> {
        let map: Array<_, MapValue<EntryCounts>> = self.data(".data.entries_inserted")?;
        map.get(&0, 0).map(|inserted| inserted.0).map_err(map_error(".data.entries_inserted"))
    }

    /// Sets the entry limits so that clients insert entries until their part of each map is full. The maps
    /// had `flows` and `sources` entries at a scan, before which the program had inserted `entries_inserted`. Entries
    /// inserted during the scan are counted twice until the next one.
    pub(crate) fn set_entry_limits(
        &mut self,
        inserted: EntryCounts,
        (flows, sources): (u64, u64),
    ) -> Result<(), KernelError> {
        let limit_of = |inserted: u64, limit: u64, present: u64| match limit {
            u64::MAX => u64::MAX,
            limit => inserted + limit.saturating_sub(present),
        };
        let limits = EntryCounts {
            flows: limit_of(inserted.flows, self.half_open.flows, flows),
            sources: limit_of(inserted.sources, self.half_open.sources, sources),
        };
        let mut map: Array<_, MapValue<EntryCounts>> = self.data(".data.entry_limits")?;
        map.set(0, MapValue(limits), 0).map_err(map_error(".data.entry_limits"))
    }

    /// Returns the keys of the hashes: those of the maps, if they were taken over.
    fn hash_keys(&mut self) -> Result<HashKeys, KernelError> {
        let mut cells: Array<_, u64> = self.data("SOURCE_SKETCH")?;
        // Written in their order: where the last one is, all are.
        if cells.get(&(SKETCH_CELLS - 1), 0).map_err(map_error("SOURCE_SKETCH"))? != 0 {
            return read_keys(&cells);
        }
        let mut words = [0; HashKeys::WORDS];
        getrandom::fill(element::bytes_mut(&mut words))
            .map_err(|error| KernelError::FlowTable(error.into()))?;
        for (cell, word) in (SKETCH_KEY_OFFSET..).zip(words) {
            cells.set(cell, word, 0).map_err(map_error("SOURCE_SKETCH"))?;
        }
        read_keys(&cells)
    }

    /// Returns the time that the program `ticks` has published.
    pub(crate) fn published_tick(&mut self) -> Result<u64, KernelError> {
        let map: Array<_, u64> = self.data(".data.now")?;
        map.get(&0, 0).map_err(map_error(".data.now"))
    }

    /// Sets the original length of a truncated frame; 0 for a whole frame.
    pub(crate) fn set_frame_length(&mut self, length: u64) -> Result<(), KernelError> {
        let mut map: Array<_, u64> = self.data(".data.length")?;
        map.set(0, length, 0).map_err(map_error(".data.length"))
    }

    /// Sets the time of a replay.
    pub(crate) fn set_now(&mut self, ticks: u64) -> Result<(), KernelError> {
        let mut map: Array<_, u64> = self.data(".data.now")?;
        map.set(0, ticks, 0).map_err(map_error(".data.now"))
    }

    fn data<V: Pod>(&mut self, name: &'static str) -> Result<Array<&mut MapData, V>, KernelError> {
        Array::try_from(self.map_mut(name)?).map_err(map_error(name))
    }

    /// Returns the totals of all CPUs.
    pub(crate) fn totals(&self) -> Result<Totals, KernelError> {
        let map = self.ebpf.map("TOTALS").ok_or(KernelError::Missing("TOTALS"))?;
        let map: PerCpuArray<_, MapValue<Totals>> =
            PerCpuArray::try_from(map).map_err(map_error("TOTALS"))?;
        let cpus = map.get(&0, 0).map_err(map_error("TOTALS"))?;
        let mut totals = Totals::default();
        cpus.iter().for_each(|cpu| totals.add(&cpu.0));
        Ok(totals)
    }

    /// Returns the maps of a scan.
    pub(crate) fn table_maps(&self) -> Result<TableMaps<'_>, KernelError> {
        Ok(TableMaps {
            buckets: self.buckets.as_ref(),
            fallback: self.hash("FLOWS")?,
            superseded: self.hash("SUPERSEDED")?,
            overflow: self.hash("OVERFLOW")?,
        })
    }

    pub(crate) fn hash(&self, name: &'static str) -> Result<&MapData, KernelError> {
        match self.ebpf.map(name) {
            Some(Map::HashMap(map)) => Ok(map),
            _ => Err(KernelError::Missing(name)),
        }
    }

    fn array(&self, name: &'static str) -> Result<&MapData, KernelError> {
        match self.ebpf.map(name) {
            Some(Map::Array(map)) => Ok(map),
            _ => Err(KernelError::Missing(name)),
        }
    }

    pub(crate) fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, KernelError> {
        self.ebpf.map_mut(name).ok_or(KernelError::Missing(name))
    }

    /// Returns the kernel memory of the maps, in bytes; 0 if the kernel does not report it.
    pub(crate) fn memory(&self) -> u64 {
        let map_memory = |(_, map): (&str, &Map)| match map {
            Map::HashMap(map) | Map::LruHashMap(map) | Map::Array(map) | Map::PerCpuArray(map) => {
                memory::map_memory(map.fd().as_fd().as_raw_fd())
            }
            _ => 0,
        };
        self.ebpf.maps().map(map_memory).sum()
    }
}

/// Returns the largest number of entries that clients alone may insert.
fn half_open(options: &LoadOptions) -> EntryCounts {
    let of = |entries: u32| match options.half_open_percent {
        100.. => u64::MAX,
        percent => (u64::from(entries) * u64::from(percent) / 100).max(1),
    };
    EntryCounts { flows: of(options.flows), sources: of(options.overflow) }
}

/// Reads the keys of the hashes from their map.
pub(crate) fn read_keys(sketch: &Array<impl Borrow<MapData>, u64>) -> Result<HashKeys, KernelError> {
    let mut words = [0; HashKeys::WORDS];
    for (cell, word) in (SKETCH_KEY_OFFSET..).zip(&mut words) {
        *word = sketch.get(&cell, 0).map_err(map_error("SOURCE_SKETCH"))?;
    }
    let mut words = words.into_iter();
    Ok(HashKeys::draw(|| words.next().unwrap_or_default()))
}

pub(crate) fn map_error<E: Into<aya::maps::MapError>>(map: &'static str) -> impl Fn(E) -> KernelError {
    move |error| KernelError::Map { map, source: Box::new(error.into()) }
}
