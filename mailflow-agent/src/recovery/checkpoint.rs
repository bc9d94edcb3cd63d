//! The checkpoint: what an agent writes about itself at intervals.

use super::journal::record;
use crate::{control::Firing, outputs::pending_delivery::Untold};
use mailflow_kernel::ReaderCheckpoint;
use serde::{Deserialize, Serialize};

/// Of the format of all files; another one's files are set aside.
pub(crate) const VERSION: u32 = 3;

pub(crate) const STATE: &str = "state";

pub(crate) const JOURNAL: &str = "journal";

#[derive(Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) version: u32,
    /// The boot of the machine that all times and tables are of.
    pub(crate) boot: String,
}

/// How far an agent had come.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The tables it belongs to: the kernel's number of the flow table, where they are pinned.
    pub generation: Option<u32>,
    /// What belongs to the tables.
    pub tables: Tables,
    /// When it was kept.
    pub now: u64,
    /// The last reading of the tables.
    pub seen: u64,
    /// Seeds of the flows' names.
    pub seeds: [u64; 2],
    /// The living flows as they were last seen, by name.
    pub flows: Vec<[u64; 5]>,
    /// What the rules know.
    pub rules: mailflow_engine::state::State,
    /// The alerts that fire, each with the moment it began to.
    pub firing: Vec<(u64, Firing)>,
    /// Alert events that were not delivered everywhere, oldest first.
    pub untold: Vec<Untold>,
}

/// What belongs to the kernel's tables, see [`ReaderCheckpoint`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tables {
    pub(crate) prefix: u8,
    pub(crate) ticks: [u64; 3],
    pub(crate) bases: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) retired: [u64; 4],
    pub(crate) overflow: [u64; 4],
    pub(crate) carried: Vec<record::Plain>,
    pub(crate) read: Vec<u32>,
}

impl From<ReaderCheckpoint> for Tables {
    fn from(
        ReaderCheckpoint {
            prefix,
            ticks,
            baselines: bases,
            ended: retired,
            overflow,
            migrated: carried,
            read_generations: read,
        }: ReaderCheckpoint,
    ) -> Self {
        let carried = carried.iter().map(record::plain).collect();
        Self { prefix, ticks, bases, retired, overflow, carried, read }
    }
}

impl From<Tables> for ReaderCheckpoint {
    fn from(Tables { prefix, ticks, bases, retired, overflow, carried, read }: Tables) -> Self {
        let carried = carried.into_iter().map(record::flow).collect();
        Self {
            prefix,
            ticks,
            baselines: bases,
            ended: retired,
            overflow,
            migrated: carried,
            read_generations: read,
        }
    }
}
