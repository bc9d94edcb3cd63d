//! What is made of the definition of the commands: completions and man pages.

use std::{io, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{args::Typed, command::Exit};

/// Writes what lets a shell complete the commands.
///
/// # Errors
/// `out` refuses.
pub fn completions(shell: Shell, out: &mut impl io::Write) -> io::Result<Exit> {
    // clap_complete panics where its writer refuses.
    let mut text = Vec::new();
    let mut command = Typed::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut text);
    out.write_all(&text)?;
    Ok(Exit::Good)
}

/// Writes `mailflow-agent.1` and a page for each command into a folder, which is made if need be.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn man(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Typed::command().disable_help_subcommand(true), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_name_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            assert_eq!(completions(shell, &mut text).unwrap(), Exit::Good);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("check-config") && text.contains("flow-log"), "{shell}: {text}");
        }
    }

    #[test]
    fn there_is_a_page_for_each_command() {
        let folder = std::env::temp_dir().join(format!("mailflow-man-{}", std::process::id()));
        man(&folder).unwrap();
        for command in Typed::command().get_subcommands() {
            let page = folder.join(format!("mailflow-agent-{}.1", command.get_name()));
            assert!(std::fs::read_to_string(&page).unwrap().contains(".SH SYNOPSIS"), "{}", page.display());
        }
        assert!(folder.join("mailflow-agent.1").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
