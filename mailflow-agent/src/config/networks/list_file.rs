//! Configured network list file.

use crate::config::diagnostics::SourceLocation;
use mailflow_engine::network::AssetRole;
use std::{path::PathBuf, sync::Arc};

/// Network list file, as configured.
#[derive(Clone, Debug)]
pub(crate) struct ListFile {
    /// Path of the file.
    pub(crate) path: PathBuf,
    /// Name of the file in diagnostics.
    pub(crate) name: Arc<str>,
    /// Path as typed.
    pub(crate) typed: String,
    /// Format; `None` detects it by name and content.
    pub(crate) format: Option<ListFormat>,
    /// Handling of unknown CSV columns.
    pub(crate) columns: OtherColumns,
    /// Group of networks without a group of their own.
    pub(crate) group: Option<String>,
    /// Role of networks without a role of their own.
    pub(crate) role: Option<AssetRole>,
    /// Location of the setting that names the file.
    pub(crate) location: SourceLocation,
    /// Path of the setting that names the file.
    pub(crate) setting: String,
}

/// Format of a network list file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListFormat {
    /// One `CIDR  comment` a line.
    Lines,
    /// CSV whose first line names the columns.
    Csv,
    /// JSON of NetBox's API about prefixes.
    Netbox,
}

/// Handling of unknown CSV columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OtherColumns {
    /// Error, as an unknown column may be a misspelled one.
    Refuse,
    /// No error: unknown columns are ignored.
    Ignore,
}
