//! `check-config` and `print-config`.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::command::ExitStatus;
use crate::config::{self, Config, DEFAULT, scalar::format_duration};
use mailflow_kernel::clock;

/// Validates each of `files`, or the shipped configuration. Prints a summary of each valid file to `out`, and
/// warnings and errors to `err`.
pub fn check(files: &[PathBuf], out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitStatus> {
    let mut exit = ExitStatus::Good;
    let shipped = [None];
    let files: &mut dyn Iterator<Item = Option<&Path>> = if files.is_empty() {
        &mut shipped.into_iter()
    } else {
        &mut files.iter().map(|file| Some(file.as_path()))
    };
    for file in files {
        match config::load(file) {
            Ok(config) => {
                for warning in config.warnings.iter().chain(config.expired_allow_entries(clock::unix_nanos()))
                {
                    writeln!(err, "warning: {warning}")?;
                }
                let name = file.map_or(config::DEFAULT_NAME.into(), Path::to_string_lossy);
                writeln!(out, "{name}: ok")?;
                writeln!(out, "  {}", summary(&config))?;
            }
            Err(faults) => {
                for fault in faults.iter() {
                    writeln!(err, "{fault}")?;
                }
                exit = ExitStatus::Usage;
            }
        }
    }
    Ok(exit)
}

fn summary(config: &Config) -> String {
    let engine = &config.engine;
    [
        pluralize(config.interfaces.len(), "interface"),
        pluralize(engine.services.len(), "watched port"),
        pluralize(engine.internal.networks().len(), "internal network"),
        pluralize(engine.rules.len(), "rule"),
        format!("read every {}", format_duration(config.poll_interval)),
    ]
    .join(", ")
}

fn pluralize(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Prints the shipped configuration unchanged, or `file` without its secrets. The file need not be valid.
pub fn print(file: Option<&Path>, out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitStatus> {
    let text = match file.map(|path| (path, fs::read(path))) {
        None => DEFAULT.to_owned(),
        Some((_, Ok(bytes))) => config::redacted(&String::from_utf8_lossy(&bytes)),
        Some((path, Err(error))) => {
            writeln!(err, "{}: cannot be read: {error}", path.display())?;
            return Ok(ExitStatus::Usage);
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(ExitStatus::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(files: &[&Path]) -> (ExitStatus, String, String) {
        let files: Vec<_> = files.iter().map(PathBuf::from).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = check(&files, &mut out, &mut err).unwrap();
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/mailflow.yaml")
    }

    #[test]
    fn a_good_configuration_is_named() {
        let summary = "0 interfaces, 8 watched ports, 5 internal networks, 3 rules, read every 1s\n";
        assert_eq!(checked(&[]), (ExitStatus::Good, format!("<default>: ok\n  {summary}"), String::new()));
        let file = shipped();
        let expected = format!("{}: ok\n  {summary}", file.display());
        assert_eq!(checked(&[&file]), (ExitStatus::Good, expected, String::new()));
    }

    #[test]
    fn one_bad_file_among_good_ones_is_bad() {
        let missing = Path::new("/nonexistent/a.yaml");
        let (exit, out, err) = checked(&[missing, &shipped()]);
        assert_eq!(exit, ExitStatus::Usage);
        assert!(out.contains(": ok"), "{out}");
        assert!(err.starts_with("/nonexistent/a.yaml: cannot be read: No such file"), "{err}");
    }

    #[test]
    fn printing_is_verbatim() {
        let (mut shipped_out, mut file_out, mut err) = (Vec::new(), Vec::new(), Vec::new());
        assert_eq!(print(None, &mut shipped_out, &mut err).unwrap(), ExitStatus::Good);
        assert_eq!(print(Some(&shipped()), &mut file_out, &mut err).unwrap(), ExitStatus::Good);
        assert_eq!(shipped_out, DEFAULT.as_bytes());
        assert_eq!(shipped_out, file_out);
        assert!(err.is_empty());
        assert_eq!(
            print(Some(Path::new("/nonexistent")), &mut file_out, &mut err).unwrap(),
            ExitStatus::Usage
        );
        assert!(!err.is_empty());
    }
}
