//! Documents and examples of the package.
//!
//! Documents have the folders of the repository, so links between them hold. The repository's `config` is `examples`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::workspace;

/// Files and folders that are installed as documents, with their paths.
const DOCUMENTS: [&str; 2] = ["docs", "SECURITY.md"];
/// Files and folders of `config` that are installed as examples.
const EXAMPLES: [&str; 7] =
    ["mailflow.yaml", "rules", "prometheus", "grafana", "clickhouse", "ansible", "systemd"];

/// Returns the documents and examples: paths below the package's folder of documents, and contents.
pub(super) fn collect() -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for name in DOCUMENTS {
        add(name, name, &mut files)?;
    }
    for name in EXAMPLES {
        add(&format!("config/{name}"), &format!("examples/{name}"), &mut files)?;
    }
    let names: Vec<String> = files.keys().cloned().collect();
    for (name, content) in files.iter_mut().filter(|(name, _)| name.ends_with(".md")) {
        let text = std::str::from_utf8(content).with_context(|| name.clone())?;
        *content = installed(name, text, &names).into_bytes();
    }
    Ok(files)
}

/// Adds a file or the files of a folder. Sources of pictures and hidden files are for developers.
fn add(from: &str, to: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let path = workspace::root().join(from);
    if !path.is_dir() {
        files.insert(to.to_owned(), fs::read(&path).with_context(|| from.to_owned())?);
        return Ok(());
    }
    for entry in fs::read_dir(&path).with_context(|| from.to_owned())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !name.ends_with(".dot") {
            add(&format!("{from}/{name}"), &format!("{to}/{name}"), files)?;
        }
    }
    Ok(())
}

/// Returns a document as it is installed: examples have their installed paths, and a link to a file that is not
/// installed is its text alone.
fn installed(name: &str, text: &str, names: &[String]) -> String {
    let mut text = text.to_owned();
    for example in EXAMPLES {
        text = text.replace(&format!("config/{example}"), &format!("examples/{example}"));
    }
    let (mut done, mut fenced) = (String::new(), false);
    for line in text.split_inclusive('\n') {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            done.push_str(line);
        } else {
            done.push_str(&without_dead_links(name, line, names));
        }
    }
    done
}

/// Returns a line with the text alone in place of each link to a file that is not installed.
fn without_dead_links(name: &str, line: &str, names: &[String]) -> String {
    let (mut done, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once("](") {
        let Some((link, following)) = after.split_once(')') else { break };
        if leads_somewhere(name, link, names) {
            done.push_str(&format!("{before}]({link})"));
        } else {
            let (start, label) = before.rsplit_once('[').unwrap_or((before, ""));
            done.push_str(start);
            done.push_str(label);
        }
        rest = following;
    }
    done + rest
}

/// Returns true if a link of the document `name` is an address, or leads to an installed file or folder.
fn leads_somewhere(name: &str, link: &str, names: &[String]) -> bool {
    let path = link.split('#').next().unwrap_or_default();
    if link.contains("://") || path.is_empty() {
        return true;
    }
    let mut target = PathBuf::new();
    for part in Path::new(name).parent().unwrap_or(Path::new("")).join(path).components() {
        match part {
            Component::ParentDir => drop(target.pop()),
            part => target.push(part),
        }
    }
    names.iter().any(|name| Path::new(name).starts_with(&target))
}

#[cfg(test)]
mod tests {
    use mailflow_test_support::{documents::Page, lab::repository_files};

    use super::*;

    #[test]
    fn links_to_other_files_become_text() {
        let names = ["docs/a.md", "examples/rules/b.yaml"].map(str::to_owned);
        let text = "See [a](a.md#x), [`config/rules`](../config/rules) and [the code](../src/a.rs), or [c](https://example.com).\n\
                    ```\n[d](../e)\n```\n";
        assert_eq!(
            installed("docs/f.md", text, &names),
            "See [a](a.md#x), [`examples/rules`](../examples/rules) and the code, or [c](https://example.com).\n\
             ```\n[d](../e)\n```\n"
        );
    }

    /// Links of installed documents lead to installed files and their headings.
    #[test]
    fn installed_documents_have_no_dead_link() {
        let files = collect().unwrap();
        let names: Vec<String> = files.keys().cloned().collect();
        let page = |(name, content): (&String, &Vec<u8>)| Page {
            name: name.clone(),
            text: String::from_utf8(content.clone()).unwrap(),
        };
        let pages: Vec<Page> = files.iter().filter(|(name, _)| name.ends_with(".md")).map(page).collect();
        let mut links = 0;
        for page in &pages {
            for (line, link) in page.links() {
                links += 1;
                assert!(leads_somewhere(&page.name, &link, &names), "{}:{line}: {link}", page.name);
                let Some((path, anchor)) = link.split_once('#').filter(|_| !link.contains("://")) else {
                    continue;
                };
                let file = Path::new(path)
                    .file_name()
                    .map_or(page.name.clone(), |file| file.to_string_lossy().into());
                let target = pages.iter().find(|page| page.name.ends_with(&file)).unwrap();
                assert!(target.anchors().iter().any(|known| known == anchor), "{}:{line}: {link}", page.name);
            }
        }
        assert!(links > 100 && pages.len() > 30, "{links} links, {} pages", pages.len());
    }

    /// Documents that messages, `--help`, units and shipped files name are installed.
    #[test]
    fn documents_that_the_product_names_are_installed() {
        let installed = collect().unwrap();
        let files = repository_files(&["mailflow-agent", "mailflow-common", "config"]).unwrap();
        let mut named = 0;
        for file in files {
            let Ok(text) = fs::read_to_string(workspace::root().join(&file)) else { continue };
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
            for word in words.filter(|word| word.starts_with("docs/") && word.contains(".md")) {
                named += 1;
                let document = word.trim_end_matches('.');
                assert!(installed.contains_key(document), "{file}: {word}");
            }
        }
        assert!(named > 20, "{named} names");
    }
}
