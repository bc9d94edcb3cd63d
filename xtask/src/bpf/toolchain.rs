//! Compiler of the BPF object: any rustc with the sources of its `core`.

use std::{
    ffi::OsStr,
    fmt, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::record::Record;

/// Version of bpf-linker, which works with any LLVM.
pub(super) const BPF_LINKER: &str = "0.13.0";
/// Debian's newest compiler, next to rustup's.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debian packages with this compiler and its sources.
pub(crate) const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// Compiler with the sources of its `core`.
#[derive(Debug)]
pub(super) struct Toolchain {
    rustc: PathBuf,
    /// `rustc --version`.
    version: String,
    /// LLVM's version.
    llvm: String,
    /// The LLVM that rustc itself uses.
    libllvm: PathBuf,
    /// Root of the standard library's sources.
    sources: PathBuf,
}

impl Toolchain {
    /// Returns the recorded compiler if it is present, otherwise any that can build the object.
    pub(super) fn find(recorded: Option<&Record>) -> Result<Self> {
        let mut found: Vec<Self> =
            ["rustc", DEBIAN_RUSTC].into_iter().filter_map(|rustc| Self::of(Path::new(rustc)).ok()).collect();
        let wanted = recorded.map(|record| record.rustc.as_str());
        if let Some(index) = found.iter().position(|toolchain| Some(toolchain.version.as_str()) == wanted) {
            return Ok(found.swap_remove(index));
        }
        match found.into_iter().next() {
            Some(toolchain) => Ok(toolchain),
            None => bail!(
                "no Rust compiler with the sources of its standard library. Either of these brings one:\n  \
                 rustup component add rust-src\n  \
                 apt-get install --no-install-recommends --no-remove {}",
                DEBIAN_PACKAGES.join(" ")
            ),
        }
    }

    fn of(rustc: &Path) -> Result<Self> {
        let output = |args: &[&str]| -> Result<String> {
            let output = Command::new(rustc).args(args).output()?;
            ensure!(output.status.success(), "{} {args:?} failed", rustc.display());
            Ok(String::from_utf8(output.stdout)?)
        };
        let verbose = output(&["-vV"])?;
        let llvm = verbose
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .with_context(|| format!("{}: no LLVM version", rustc.display()))?;
        let sysroot = PathBuf::from(output(&["--print", "sysroot"])?.trim());
        let sources = sysroot.join("lib/rustlib/src/rust");
        ensure!(sources.join("library/core/Cargo.toml").exists(), "no sources of core");
        Ok(Self {
            rustc: rustc.to_owned(),
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            llvm: llvm.to_owned(),
            libllvm: libllvm(&sysroot)?,
            sources,
        })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn llvm(&self) -> &str {
        &self.llvm
    }

    /// Returns the paths of the standard library's sources, as the compiler knows them.
    pub(super) fn sources(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.sources.clone()];
        paths.extend(fs::canonicalize(&self.sources));
        paths.dedup();
        paths
    }

    /// Returns a command that uses this compiler and its LLVM.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("RUSTC", &self.rustc);
        // Settings of the outer cargo must not reach the inner one.
        for variable in ["RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            command.env_remove(variable);
        }
        if let Some(directory) = self.libllvm.parent() {
            command.env("LD_LIBRARY_PATH", directory);
        }
        command
    }

    /// Returns a bpf-linker for this compiler's LLVM, built once under `target`.
    pub(super) fn linker(&self, root: &Path) -> Result<PathBuf> {
        let major = self.llvm.split('.').next().unwrap_or_default();
        let home = root.join(format!("target/tools/bpf-linker-{BPF_LINKER}-llvm-{major}"));
        let linker = home.join("bin/bpf-linker");
        let works = |linker: &Path| {
            let mut command = self.command(linker);
            command.arg("--version").output().is_ok_and(|output| output.status.success())
        };
        if works(&linker) {
            return Ok(linker);
        }
        println!("building bpf-linker {BPF_LINKER} against {}", self.libllvm.display());
        let prefix = home.join("llvm");
        fs::create_dir_all(prefix.join("lib"))?;
        let link = prefix.join("lib/libLLVM.so");
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link)?;
        }
        symlink(&self.libllvm, &link).with_context(|| format!("linking {}", link.display()))?;
        let status = Command::new(env!("CARGO"))
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--debug", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
            .arg(&home)
            .env("CARGO_TARGET_DIR", home.join("build"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("LLVM_PREFIX", &prefix)
            .status()
            .context("running cargo install bpf-linker")?;
        ensure!(
            status.success() && works(&linker),
            "bpf-linker {BPF_LINKER} could not be built for LLVM {major}"
        );
        Ok(linker)
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}), LLVM {}", self.version, self.rustc.display(), self.llvm)
    }
}

/// Returns the shared LLVM library of a sysroot: rustup has it in `lib`, Debian in the multiarch folder.
fn libllvm(sysroot: &Path) -> Result<PathBuf> {
    let driver_folders =
        [sysroot.join("lib"), sysroot.join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))];
    let folder = driver_folders
        .iter()
        .find(|folder| !matching(folder, "librustc_driver-").is_empty())
        .with_context(|| format!("no librustc_driver below {}", sysroot.display()))?;
    let driver = matching(folder, "librustc_driver-").into_iter().next().unwrap_or_default();
    // The dynamic section has the name of the library it was linked with.
    let bytes = fs::read(&driver).with_context(|| format!("reading {}", driver.display()))?;
    let mut candidates = matching(folder, "libLLVM");
    candidates.retain(|path| !path.is_symlink());
    candidates
        .into_iter()
        .find(|path| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            bytes.windows(name.len()).any(|window| window == name)
        })
        .with_context(|| format!("no shared LLVM in {} that {} uses", folder.display(), driver.display()))
}

fn matching(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        })
        .collect();
    paths.sort();
    paths
}
