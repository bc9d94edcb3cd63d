//! A file of networks, as the configuration names it.

use crate::config::diagnostics::Place;
use mailflow_engine::network::AssetRole;
use std::{path::PathBuf, sync::Arc};

/// A file of networks, as the configuration names it.
#[derive(Clone, Debug)]
pub(crate) struct ListFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its name in faults.
    pub(crate) name: Arc<str>,
    /// The path as typed.
    pub(crate) typed: String,
    /// What it is written in; by its content, where that is not said.
    pub(crate) format: Option<Format>,
    /// Columns of other names.
    pub(crate) columns: OtherColumns,
    /// The group of networks that name none.
    pub(crate) group: Option<String>,
    /// The role of networks that name none.
    pub(crate) role: Option<AssetRole>,
    /// Where the configuration names it.
    pub(crate) place: Place,
    /// The setting in which it does.
    pub(crate) setting: String,
}

/// What a file of networks is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `CIDR  comment` a line.
    Lines,
    /// A table whose first line names the columns.
    Csv,
    /// What NetBox answers about its prefixes.
    Netbox,
}

/// What becomes of columns that say nothing to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherColumns {
    /// They are faults: one of them may be a slip of ours.
    Refuse,
    /// They are somebody else's.
    Ignore,
}
