//! Generates completion scripts and man pages from the clap definition.

use std::{io, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{args::Cli, command::ExitStatus};

/// Writes a shell's completion script.
///
/// # Errors
/// `out` cannot be written.
pub fn write_completions(shell: Shell, out: &mut impl io::Write) -> io::Result<ExitStatus> {
    // clap_complete panics if its writer fails.
    let mut text = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut text);
    out.write_all(&text)?;
    Ok(ExitStatus::Good)
}

/// Writes `mailflow-agent.1` and a page for each command into a folder. Creates the folder if it does not
/// exist.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn write_man_pages(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_name_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            assert_eq!(write_completions(shell, &mut text).unwrap(), ExitStatus::Good);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("check-config") && text.contains("flow-log"), "{shell}: {text}");
        }
    }

    #[test]
    fn there_is_a_page_for_each_command() {
        let folder = std::env::temp_dir().join(format!("mailflow-man-{}", std::process::id()));
        write_man_pages(&folder).unwrap();
        for command in Cli::command().get_subcommands() {
            let page = folder.join(format!("mailflow-agent-{}.1", command.get_name()));
            assert!(std::fs::read_to_string(&page).unwrap().contains(".SH SYNOPSIS"), "{}", page.display());
        }
        assert!(folder.join("mailflow-agent.1").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
