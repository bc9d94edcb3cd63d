//! Documentation: links have targets, command lines parse, examples are valid, words are plain.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use mailflow_agent::{
    cli::{self, ExitStatus},
    config,
};
use mailflow_test_support::{
    documents::{Block, CommandLine, Page, pages},
    lab::workspace,
    temp_folder::TempFolder,
    words::{NO_WORDS, has},
};

/// The pages, of which there are some.
fn all() -> Vec<Page> {
    let pages = pages().unwrap();
    assert!(pages.len() > 20, "{} pages", pages.len());
    pages
}

/// Fails with a line for each fault.
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Returns a path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            _ => normal.push(part),
        }
    }
    normal
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let pages = all();
    let anchors: BTreeMap<PathBuf, Vec<String>> =
        pages.iter().map(|page| (PathBuf::from(&page.name), page.anchors())).collect();
    let mut faults = Vec::new();
    for page in &pages {
        for (line, link) in page.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(&page.name).parent().unwrap();
            let target = if path.is_empty() { PathBuf::from(&page.name) } else { normal(&folder.join(path)) };
            if !workspace().join(&target).exists() {
                faults.push(format!("{}:{line}: no file {link}", page.name));
            } else if !anchor.is_empty()
                && !anchors.get(&target).is_some_and(|known| known.iter().any(|name| name == anchor))
            {
                faults.push(format!("{}:{line}: no heading {link}", page.name));
            }
        }
    }
    none(&faults);
}

#[test]
fn the_index_of_docs_links_to_every_page_below_it() {
    let pages = all();
    let index = pages.iter().find(|page| page.name == "docs/README.md").unwrap();
    let linked: Vec<_> = index.links().into_iter().map(|(_, link)| format!("docs/{link}")).collect();
    let missing =
        pages.iter().map(|page| &page.name).filter(|name| name.starts_with("docs/") && *name != &index.name);
    let missing: Vec<_> = missing.filter(|name| !linked.contains(name)).cloned().collect();
    none(&missing);
}

/// Packages and targets that a `cargo test` or `cargo bench` names, as manifests do.
fn cargo_fault(words: &[String]) -> Option<String> {
    let value = |option: &str| words.iter().position(|word| word == option).and_then(|at| words.get(at + 1));
    let manifest = match value("-p").map(String::as_str) {
        Some("mailflow-unprivileged-tests") => "tests/unprivileged/Cargo.toml",
        Some("mailflow-system-tests") => "tests/system/Cargo.toml",
        None => return None,
        Some("mailflow-engine") => "mailflow-agent/engine/Cargo.toml",
        Some("mailflow-kernel") => "mailflow-agent/kernel/Cargo.toml",
        Some("mailflow-common") => "mailflow-common/Cargo.toml",
        Some("mailflow-ebpf") => "mailflow-ebpf/Cargo.toml",
        Some("xtask") => "xtask/Cargo.toml",
        Some(package) => return Some(format!("no package {package}")),
    };
    let manifest = fs::read_to_string(workspace().join(manifest)).unwrap();
    let targets = ["--test", "--bench"].into_iter().filter_map(value);
    let mut unknown = targets.filter(|target| !manifest.contains(&format!("name = \"{target}\"")));
    unknown.next().map(|target| format!("no target {target}"))
}

/// Returns the fault of a command line. The arguments of `cargo xtask` are parsed in xtask's own test.
pub(crate) fn command_fault(command: &CommandLine) -> Option<String> {
    let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
    let parse = |words: &[&str]| cli::parse_from(words).err().map(|error| error.to_string());
    match words[..] {
        ["mailflow-agent", "--version" | "--help"] => None,
        ["mailflow-agent", ..] => parse(&words),
        ["cargo", "xtask", "run", "--", ref rest @ ..] => parse(&[&["mailflow-agent", "run"], rest].concat()),
        ["cargo", "xtask", ..] => None,
        ["cargo", "test" | "bench", ..] => cargo_fault(&command.words),
        _ => Some("no test runs it: mark the block `<!-- not run: reason -->`".to_owned()),
    }
}

#[test]
fn command_lines_parse_or_are_marked_as_not_run() {
    let mut faults = Vec::new();
    let mut parsed = 0;
    for page in all() {
        for block in page.blocks().iter().filter(|block| block.is_shell() && block.not_run.is_none()) {
            for command in block.commands() {
                parsed += 1;
                if let Some(fault) = command_fault(&command) {
                    faults.push(format!(
                        "{}:{}: {}: {fault}",
                        page.name,
                        command.line,
                        command.words.join(" ")
                    ));
                }
            }
        }
    }
    none(&faults);
    assert!(parsed > 20, "{parsed} commands");
}

/// A name such as `mailflow-agent backtest` may lack the arguments that the command requires.
#[test]
fn commands_in_the_running_text_parse() {
    let mut faults = Vec::new();
    for page in all() {
        for command in page.inline_commands() {
            let incomplete = cli::parse_from(&command.words)
                .is_err_and(|error| format!("{:?}", error.kind()) == "MissingRequiredArgument");
            if let Some(fault) = command_fault(&command).filter(|_| !incomplete) {
                faults.push(format!("{}:{}: {}: {fault}", page.name, command.line, command.words.join(" ")));
            }
        }
    }
    none(&faults);
}

#[test]
fn markers_have_a_reason() {
    let reasons = |block: &Block| block.not_run.as_ref().is_none_or(|reason| reason.len() > 5);
    for page in all() {
        let faults: Vec<_> =
            page.blocks().into_iter().filter(|block| !reasons(block)).map(|block| block.line).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", page.name);
    }
}

#[test]
fn configurations_that_are_shown_are_good() {
    let mut shown = 0;
    for page in all() {
        for block in page.blocks().iter().filter(|block| block.info.starts_with("yaml config")) {
            shown += 1;
            let at = format!("{}:{}", page.name, block.line);
            config::parse("example.yaml", &block.text).unwrap_or_else(|faults| panic!("{at}: {faults}"));
        }
    }
    assert!(shown > 5, "{shown} configurations");
}

/// A page's `yaml config FILE` blocks are written before its `yaml rule test FILE` blocks are run.
#[test]
fn rule_tests_that_are_shown_pass() {
    let mut passed = 0;
    for page in all() {
        let folder = TempFolder::new(&format!("docs-{}", page.name.replace('/', "-")));
        for block in page.blocks() {
            let named = |kind: &str| block.info.strip_prefix(kind).map(|name| folder.join(name));
            if let Some(file) = named("yaml config ") {
                fs::write(file, &block.text).unwrap();
            } else if let Some(file) = named("yaml rule test ") {
                fs::write(&file, &block.text).unwrap();
                let (mut out, mut err) = (Vec::new(), Vec::new());
                let exit = cli::rules::test(&[file], &mut out, &mut err).unwrap();
                let report = [out, err].map(|text| String::from_utf8(text).unwrap()).concat();
                assert_eq!(exit, ExitStatus::Good, "{}:{}: {report}", page.name, block.line);
                passed += 1;
            }
        }
    }
    assert!(passed > 0, "no rule test is shown");
}

#[test]
fn prose_has_no_words_outside_of_the_field() {
    let mut faults = Vec::new();
    for page in all() {
        for (line, text) in page.prose() {
            let found = NO_WORDS.iter().filter(|word| has(&text, word));
            faults.extend(found.map(|word| format!("{}:{line}: {word:?}: {}", page.name, text.trim())));
        }
    }
    none(&faults);
}

/// `cargo xtask screenshots` draws these. Each is on a page, with a text for those who do not see it.
#[test]
fn screenshots_are_shown_with_a_text() {
    let pages = all();
    let mut pictures = 0;
    for entry in fs::read_dir(workspace().join("docs/pictures")).unwrap() {
        let picture = entry.unwrap();
        let name = picture.file_name().into_string().unwrap();
        pictures += 1;
        assert!(picture.metadata().unwrap().len() <= 150_000, "{name} is large");
        let target = format!("pictures/{name})");
        let mut shown = pages.iter().flat_map(|page| page.text.lines()).filter(|line| line.contains(&target));
        let text = |line: &str| line.trim().strip_prefix("![").is_some_and(|rest| rest.find(']') > Some(15));
        assert!(shown.clone().count() > 0, "no page shows {name}");
        assert!(shown.all(text), "{name} has no text");
    }
    assert!(pictures > 3, "{pictures} pictures");
}

/// Each picture is drawn from a source that is there too.
#[test]
fn pictures_have_their_sources() {
    let folder = workspace().join("docs/understand/pictures");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (mut pictures, mut sources) = (Vec::new(), Vec::new());
    for path in entries {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => pictures.push(path.with_extension("")),
            Some("dot") => sources.push(path.with_extension("")),
            _ => {}
        }
    }
    pictures.sort();
    sources.sort();
    assert_eq!(pictures, sources);
}
