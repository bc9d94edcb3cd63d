//! A file of networks, as the configuration names it.

use crate::config::fault::Place;
use mailflow_engine::assets::AssetRole;
use std::{path::PathBuf, sync::Arc};

/// A file of networks, as the configuration names it.
#[derive(Clone, Debug)]
pub(in crate::config) struct ListFile {
    /// Where it is.
    pub(in crate::config) path: PathBuf,
    /// Its name in faults.
    pub(in crate::config) name: Arc<str>,
    /// The path as typed.
    pub(in crate::config) typed: String,
    /// What it is written in; by its content, where that is not said.
    pub(in crate::config) format: Option<Format>,
    /// Columns of other names.
    pub(in crate::config) columns: OtherColumns,
    /// The group of networks that name none.
    pub(in crate::config) group: Option<String>,
    /// The role of networks that name none.
    pub(in crate::config) role: Option<AssetRole>,
    /// Where the configuration names it.
    pub(in crate::config) place: Place,
    /// The setting in which it does.
    pub(in crate::config) setting: String,
}

/// What a file of networks is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Format {
    /// `CIDR  comment` a line.
    Lines,
    /// A table whose first line names the columns.
    Csv,
    /// What NetBox answers about its prefixes.
    Netbox,
}

/// What becomes of columns that say nothing to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum OtherColumns {
    /// They are faults: one of them may be a slip of ours.
    Refuse,
    /// They are somebody else's.
    Ignore,
}
