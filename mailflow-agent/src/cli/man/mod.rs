//! Generates completion scripts and man pages.
//!
//! A page of a command comes from its clap definition and its [`manual`]. mailflow.yaml(5) and mailflow-rules(5) are the
//! documentation's own pages, converted from [`markdown`].

mod man_page;
pub(super) mod manual;
mod markdown;
mod pages;

use std::{fmt::Write as _, io, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;

use self::man_page::ManPage;
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

/// Writes the man pages into `man1`, `man5` and `man8` of a folder. Creates folders that do not exist.
///
/// # Errors
/// A folder or a file cannot be written.
pub fn write_man_pages(folder: &Path) -> io::Result<()> {
    for page in all()? {
        let section = folder.join(format!("man{}", page.section));
        std::fs::create_dir_all(&section)?;
        let text = portable(&without_empty_paragraphs(&page.text));
        std::fs::write(section.join(format!("{}.{}", page.name, page.section)), text)?;
    }
    Ok(())
}

/// Returns all pages.
fn all() -> io::Result<Vec<ManPage>> {
    let mut pages = pages::commands()?;
    pages.extend(markdown::documents());
    Ok(pages)
}

/// Returns the text without the beginning of a paragraph directly behind a heading, which has none before it.
fn without_empty_paragraphs(text: &str) -> String {
    let mut heading = false;
    let lines = text.split_inclusive('\n').filter(|line| {
        let redundant = heading && *line == ".PP\n";
        heading = line.starts_with(".SH") || line.starts_with(".SS");
        !redundant
    });
    lines.collect()
}

/// Returns the text with escapes for characters that groff shows as others, as `^`, or reads by the locale.
fn portable(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            '`' => escaped.push_str("\\(ga"),
            c if c.is_ascii() => escaped.push(c),
            // Writing to a String cannot fail.
            c => drop(write!(escaped, "\\[u{:04X}]", u32::from(c))),
        }
    }
    escaped
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
        let pages = all().unwrap();
        let page = |name: &str, section: &str| {
            let mut found = pages.iter().filter(|page| page.name == name && page.section == section);
            found.next().unwrap_or_else(|| panic!("no page {name}({section})"))
        };
        let mut commands = 0;
        for command in Cli::command().get_subcommands() {
            let name = format!("mailflow-agent-{}", command.get_name());
            if command.get_name() == "run" {
                assert_eq!(page(&name, "8").text, ".so man8/mailflow-agent.8\n");
                continue;
            }
            commands += 1;
            let text = &page(&name, "1").text;
            for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"] {
                assert!(
                    text.contains(&format!(".SH {heading}\n"))
                        || text.contains(&format!(".SH \"{heading}\"\n")),
                    "{name}: {heading}"
                );
            }
        }
        assert!(commands > 10, "{commands} commands");
        let daemon = &page("mailflow-agent", "8").text;
        for heading in [
            "OPTIONS",
            "COMMANDS",
            "SIGNALS",
            "\"EXIT STATUS\"",
            "FILES",
            "ENVIRONMENT",
            "EXAMPLES",
            "\"SEE ALSO\"",
        ] {
            assert!(daemon.contains(&format!(".SH {heading}\n")), "{heading}");
        }
        for name in ["mailflow.yaml", "mailflow-rules"] {
            for heading in ["NAME", "DESCRIPTION", "EXAMPLES", "FILES", "\"SEE ALSO\""] {
                assert!(page(name, "5").text.contains(&format!(".SH {heading}\n")), "{name}: {heading}");
            }
        }
    }

    #[test]
    fn first_paragraph_follows_its_heading() {
        assert_eq!(without_empty_paragraphs(".SH A\n.PP\nb\n.PP\nc\n"), ".SH A\nb\n.PP\nc\n");
    }

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(portable("re:^a~`b` \u{2265} 1"), "re:\\(haa\\(ti\\(gab\\(ga \\[u2265] 1");
    }
}
