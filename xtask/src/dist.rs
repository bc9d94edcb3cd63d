//! `cargo xtask dist`: the files that are installed on a gateway.

mod binary;
mod deb;
mod documents;
mod notices;
mod tree;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    terminal::{Steps, say},
    workspace,
};

/// Folder of the results, relative to the root of the repository.
const OUT: &str = "target/package";

/// Arguments of `cargo xtask dist`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Package this binary instead of building one
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// Folder of the binary and the package
    #[arg(long, value_name = "FOLDER", default_value = OUT)]
    pub(crate) out: PathBuf,
}

impl Default for Args {
    fn default() -> Self {
        Self { binary: None, out: OUT.into() }
    }
}

/// Paths of the results.
#[derive(Debug)]
pub(crate) struct Built {
    /// Static binary.
    pub(crate) binary: PathBuf,
    /// Package with the binary.
    pub(crate) package: PathBuf,
}

/// Builds the binary and the package; prints their paths.
pub(crate) fn run(args: &Args) -> Result<Built> {
    let mut steps = Steps::new(2);
    steps.next("Static binary");
    let binary = match &args.binary {
        Some(binary) => fs::canonicalize(binary).with_context(|| binary.display().to_string())?,
        None => binary::build()?,
    };
    let out = workspace::root().join(&args.out);
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let copy = out.join("mailflow-agent");
    // Copying a file onto itself would truncate it.
    if fs::canonicalize(&copy).ok().as_ref() != Some(&binary) {
        fs::copy(&binary, &copy).with_context(|| copy.display().to_string())?;
    }
    say(copy.display());
    steps.next("Package");
    let package = deb::build(&copy, &out)?;
    say(package.display());
    Ok(Built { binary: copy, package })
}
