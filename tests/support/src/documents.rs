//! The documentation as tests read it: pages, links, fenced blocks and command lines.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};

use crate::lab::{repository_files, workspace};

/// Marker of a block whose commands no test parses. A reason follows.
const NOT_RUN: &str = "<!-- not run: ";

/// A Markdown file of the repository.
#[derive(Debug)]
pub struct Page {
    /// Path from the root of the repository.
    pub name: String,
    /// Content.
    pub text: String,
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// Line of the opening fence, from 1 on.
    pub line: usize,
    /// Info string behind the fence, such as `sh`.
    pub info: String,
    /// Content without the fences.
    pub text: String,
    /// Reason of a marker before the block, if there is one.
    pub not_run: Option<String>,
}

/// A simple command of a block: no pipe, no redirection, no `sudo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Line in the page, from 1 on.
    pub line: usize,
    /// Program and arguments. The program has no folder.
    pub words: Vec<String>,
}

/// Returns the Markdown files that git tracks, and new ones that it does not ignore.
///
/// # Errors
/// git cannot be run, or a file cannot be read.
pub fn pages() -> Result<Vec<Page>> {
    let read = |name: String| {
        let text = fs::read_to_string(workspace().join(&name)).with_context(|| name.clone())?;
        Ok(Page { name, text })
    };
    repository_files(&["*.md"])?.into_iter().map(read).collect()
}

impl Page {
    /// Returns the fenced blocks, in their order.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let (mut open, mut marker) = (false, None);
        for (number, line) in (1..).zip(self.text.lines()) {
            let trimmed = line.trim();
            match (trimmed.strip_prefix("```"), blocks.last_mut()) {
                (Some(_), _) if open => open = false,
                (Some(info), _) => {
                    let info = info.trim().to_owned();
                    blocks.push(Block { line: number, info, text: String::new(), not_run: marker.take() });
                    open = true;
                }
                (None, Some(block)) if open => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                _ if !trimmed.is_empty() => {
                    let reason = trimmed.strip_prefix(NOT_RUN).and_then(|rest| rest.strip_suffix("-->"));
                    marker = reason.map(|reason| reason.trim().to_owned());
                }
                _ => {}
            }
        }
        blocks
    }

    /// Returns the lines outside of fenced blocks, with their numbers from 1 on.
    fn running_text(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut open = false;
        (1..).zip(self.text.lines()).filter(move |(_, line)| {
            let fence = line.trim_start().starts_with("```");
            open ^= fence;
            !open && !fence
        })
    }

    /// Returns the running text without code spans, comments and targets of links, with the numbers of its lines.
    pub fn prose(&self) -> Vec<(usize, String)> {
        let text = self.running_text().filter(|(_, line)| !line.trim_start().starts_with("<!--"));
        text.map(|(number, line)| (number, without_targets(&without_code(line)))).collect()
    }

    /// Returns the commands of this project in the running text, without those that have placeholders.
    pub fn inline_commands(&self) -> Vec<CommandLine> {
        let mut commands = Vec::new();
        for (number, line) in self.running_text() {
            let spans = line.split('`').skip(1).step_by(2).filter(|span| !has_placeholder(span));
            let simple = spans.flat_map(split).filter_map(program).filter(|words| is_ours(words));
            commands.extend(simple.map(|words| CommandLine { line: number, words }));
        }
        commands
    }

    /// Returns the targets of links and pictures in the running text, with their lines.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (number, line) in self.running_text() {
            let line = without_code(line);
            for rest in line.split("](").skip(1) {
                found.extend(rest.split(')').next().map(|target| (number, target.to_owned())));
            }
        }
        found
    }

    /// Returns the names to which links may lead, as GitHub makes them of headings.
    pub fn anchors(&self) -> Vec<String> {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let mut anchors = Vec::new();
        for (_, line) in self.running_text() {
            let hashes = line.len() - line.trim_start_matches('#').len();
            if hashes == 0 || !line[hashes..].starts_with(' ') {
                continue;
            }
            let anchor = anchor(line[hashes..].trim());
            let before = times.entry(anchor.clone()).or_default();
            anchors.push(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
            *before += 1;
        }
        anchors
    }
}

impl Block {
    /// Returns true if the block holds command lines.
    pub fn is_shell(&self) -> bool {
        matches!(self.info.split(' ').next(), Some("sh" | "console" | "bash" | "shell"))
    }

    /// Returns the simple commands of a block of command lines. In `console` blocks these begin with `$ `.
    pub fn commands(&self) -> Vec<CommandLine> {
        let console = self.info.starts_with("console");
        let mut commands = Vec::new();
        let mut pending: Option<(usize, String)> = None;
        for (number, line) in (self.line + 1..).zip(self.text.lines()) {
            let (line_number, mut text) = match pending.take() {
                Some((first, before)) => (first, before + " " + line.trim()),
                None if console => match line.trim_start().strip_prefix("$ ") {
                    Some(command) => (number, command.to_owned()),
                    None => continue,
                },
                None => (number, line.trim().to_owned()),
            };
            if text.ends_with('\\') {
                text.pop();
                pending = Some((line_number, text));
                continue;
            }
            let simple = split(&text).into_iter().filter_map(program);
            commands.extend(simple.map(|words| CommandLine { line: line_number, words }));
        }
        commands
    }
}

/// Returns true if a command has a part for the reader to fill in, such as `FILE`, `[--json]` or `...`.
fn has_placeholder(command: &str) -> bool {
    let capitals = |word: &str| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase());
    command.contains(['[', ']', '|']) || command.contains("...") || command.split([' ', '=']).any(capitals)
}

/// Returns true if a command is one of this project's: the agent's, or cargo's with arguments that tests know.
fn is_ours(words: &[String]) -> bool {
    match words {
        [agent, _, ..] if agent == "mailflow-agent" => true,
        [cargo, verb, ..] => cargo == "cargo" && ["xtask", "test", "bench"].contains(&verb.as_str()),
        _ => false,
    }
}

/// Returns the name that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let mut text = String::new();
    // Of a link only its text is shown.
    for (index, part) in heading.split("](").enumerate() {
        text.push_str(if index == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) });
    }
    let kept =
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.replace(' ', "-")
}

/// Returns a line with its code spans blanked.
fn without_code(line: &str) -> String {
    line.split('`').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { " " }).collect()
}

/// Returns a line without the targets of its links.
fn without_targets(line: &str) -> String {
    let mut parts = line.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push(' ');
        text.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    text
}

/// Splits a line of a shell into simple commands of words, without comments and redirections.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote, mut started, mut redirected) = (String::new(), None, false, false);
    let finish =
        |word: &mut String, started: &mut bool, redirected: &mut bool, commands: &mut Vec<Vec<String>>| {
            if *started
                && !std::mem::take(redirected)
                && let Some(command) = commands.last_mut()
            {
                command.push(std::mem::take(word));
            }
            word.clear();
            *started = false;
        };
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.push(c),
            (None, '\'' | '"') => (quote, started) = (Some(c), true),
            (None, '#') if !started => break,
            (None, ' ' | '\t') => finish(&mut word, &mut started, &mut redirected, &mut commands),
            (None, '|' | ';' | '&') => {
                finish(&mut word, &mut started, &mut redirected, &mut commands);
                commands.push(Vec::new());
            }
            (None, '<' | '>') => {
                // The number of a descriptor before the sign is no argument.
                if word.chars().all(|c| c.is_ascii_digit()) {
                    started = false;
                }
                finish(&mut word, &mut started, &mut redirected, &mut commands);
                redirected = true;
            }
            (None, _) => {
                word.push(c);
                started = true;
            }
        }
    }
    finish(&mut word, &mut started, &mut redirected, &mut commands);
    commands
}

/// Returns a command from its program on: without `sudo` and the like, assignments and the program's folder.
fn program(words: Vec<String>) -> Option<Vec<String>> {
    let wrapper = |word: &str| matches!(word, "sudo" | "env" | "exec" | "nsenter");
    let mut wrapped = false;
    let mut rest = words.into_iter().skip_while(|word| {
        wrapped |= wrapper(word);
        wrapper(word) || word.contains('=') || (wrapped && word.starts_with('-'))
    });
    let first = rest.next()?;
    let name = Path::new(&first).file_name().map(|name| name.to_string_lossy().into_owned())?;
    Some(std::iter::once(name).chain(rest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page { name: "a.md".to_owned(), text: text.to_owned() }
    }

    fn words(block: &Block) -> Vec<String> {
        block.commands().into_iter().map(|command| command.words.join(" ")).collect()
    }

    #[test]
    fn commands_are_split_from_what_is_around_them() {
        let text = "```sh\nsudo -E X=1 ~/bin/agent run --to \"a b\"   # here\n# nothing\na \\\n  b | c > d 2>&1\n```\n";
        let blocks = page(text).blocks();
        assert_eq!(words(&blocks[0])[..3], ["agent run --to a b", "a b", "c"]);
        assert_eq!(blocks[0].commands()[1].line, 4);
    }

    #[test]
    fn output_of_a_console_is_no_command() {
        let blocks = page("```console\n$ agent check\nagent: ok\n```\n").blocks();
        assert_eq!(words(&blocks[0]), ["agent check"]);
    }

    #[test]
    fn a_marker_belongs_to_the_next_block_alone() {
        let blocks =
            page("<!-- not run: needs a server -->\n\n```sh\na\n```\ntext\n```sh\nb\n```\n").blocks();
        assert_eq!(blocks[0].not_run.as_deref(), Some("needs a server"));
        assert_eq!(blocks[1].not_run, None);
    }

    #[test]
    fn commands_in_the_text_have_no_placeholders() {
        let page = page("Run `mailflow-agent status` or `mailflow-agent explain SOURCE`, not `ls`.\n");
        let found: Vec<_> =
            page.inline_commands().into_iter().map(|command| command.words.join(" ")).collect();
        assert_eq!(found, ["mailflow-agent status"]);
    }

    #[test]
    fn anchors_are_those_of_github() {
        let anchors = page("# A page\n## What `x.y` is, and *why*\n## A page\n```\n# no\n```\n").anchors();
        assert_eq!(anchors, ["a-page", "what-xy-is-and-why", "a-page-1"]);
    }

    #[test]
    fn links_and_prose_leave_code_out() {
        let page = page("See [a](b.md#c) and `[d](e)`.\n```\n[f](g)\n```\n");
        assert_eq!(page.links(), [(1, "b.md#c".to_owned())]);
        assert_eq!(page.prose(), [(1, "See [a  and  .".to_owned())]);
    }
}
