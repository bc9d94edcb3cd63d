//! Man pages of section 5, converted from pages of the documentation.
//!
//! Headings become sections, tables lists of entries, links their text with the target in parentheses.

use std::path::{Component, Path, PathBuf};

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use super::{
    man_page::ManPage,
    manual::DOCUMENTS,
    pages::{entries, entry, section, see_also, title, verbatim},
};

/// Document that is a man page too.
struct Document {
    /// Name of the page.
    name: &'static str,
    /// Text behind the name in the section NAME.
    about: &'static str,
    /// Path from the root of the repository.
    path: &'static str,
    /// Content.
    markdown: &'static str,
    /// Heading of the section that is EXAMPLES in the page.
    examples: &'static str,
    /// Paths and their contents.
    files: &'static [(&'static str, &'static str)],
    /// Other pages and documents.
    see_also: &'static [&'static str],
}

/// Path of the installed configuration.
const CONFIGURATION: &str = "/etc/mailflow/mailflow.yaml";

const PAGES: [Document; 2] = [
    Document {
        name: "mailflow.yaml",
        about: "configuration of mailflow-agent",
        path: "docs/operate/configuration.md",
        markdown: include_str!("../../../../docs/operate/configuration.md"),
        examples: "What does a whole file look like?",
        files: &[
            (CONFIGURATION, "Configuration of the service."),
            (
                "/usr/share/doc/mailflow-agent/examples/mailflow.yaml",
                "The built-in configuration, which contains every setting with its default. \
                 mailflow-agent-print-config(1) prints it.",
            ),
        ],
        see_also: &[
            "mailflow-rules(5)",
            "mailflow-agent-check-config(1)",
            "mailflow-agent-print-config(1)",
            "mailflow-agent-reload(1)",
            "docs/operate/configuration.md",
            "docs/operate/interfaces.md",
            "docs/operate/sizing.md",
            "docs/integrate/events.md",
        ],
    },
    Document {
        name: "mailflow-rules",
        about: "rules and rule tests of mailflow-agent",
        path: "docs/rules/reference.md",
        markdown: include_str!("../../../../docs/rules/reference.md"),
        examples: "What does a rule look like?",
        files: &[
            (CONFIGURATION, "Configuration of the service, with its rules."),
            (
                "/usr/share/doc/mailflow-agent/examples/rules/",
                "Example rules, and tests of the example rules and of the shipped rules.",
            ),
        ],
        see_also: &[
            "mailflow.yaml(5)",
            "mailflow-agent-rules-test(1)",
            "mailflow-agent-backtest(1)",
            "mailflow-agent-explain(1)",
            "docs/rules/reference.md",
            "docs/rules/tutorial.md",
            "docs/rules/tuning.md",
            "docs/rules/backtest.md",
        ],
    },
];

/// Returns the pages of the documents.
pub(super) fn documents() -> impl Iterator<Item = ManPage> {
    PAGES.iter().map(|document| {
        let mut roff = Roff::new();
        title(&mut roff, document.name, "5");
        section(&mut roff, "NAME");
        roff.text([roman(format!("{} - {}", document.name, document.about))]);
        section(&mut roff, "SYNOPSIS");
        roff.text([italic(CONFIGURATION)]);
        section(&mut roff, "DESCRIPTION");
        let mut converter = Converter::new(document, &mut roff);
        for event in Parser::new_ext(document.markdown, Options::ENABLE_TABLES) {
            converter.take(event);
        }
        section(&mut roff, "FILES");
        entries(&mut roff, document.files);
        see_also(&mut roff, &["mailflow-agent(8)".to_owned()], document.see_also);
        ManPage { name: document.name.to_owned(), section: "5", text: roff.render() }
    })
}

/// Conversion of a document.
struct Converter<'a> {
    document: &'a Document,
    roff: &'a mut Roff,
    /// Text of the current paragraph, heading or cell.
    line: Vec<Inline>,
    strong: bool,
    emphasis: bool,
    /// True in an item of a list, whose first paragraph begins at its bullet.
    item: bool,
    /// Number of the next item; `None` in a list without numbers.
    number: Option<u64>,
    /// Targets of the open links, and where their texts begin in `line`.
    links: Vec<(String, usize)>,
    /// Text of the open code block.
    code: Option<String>,
    /// Cells of the header of the open table.
    header: Vec<String>,
    /// Cells of the open row.
    row: Vec<Vec<Inline>>,
}

impl<'a> Converter<'a> {
    fn new(document: &'a Document, roff: &'a mut Roff) -> Self {
        Self {
            document,
            roff,
            line: Vec::new(),
            strong: false,
            emphasis: false,
            item: false,
            number: None,
            links: Vec::new(),
            code: None,
            header: Vec::new(),
            row: Vec::new(),
        }
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => match &mut self.code {
                Some(code) => code.push_str(&text),
                None if self.strong => self.line.push(bold(&*text)),
                None if self.emphasis => self.line.push(italic(&*text)),
                None => self.line.push(roman(&*text)),
            },
            Event::Code(text) => self.line.push(bold(&*text)),
            Event::SoftBreak => self.line.push(roman(" ")),
            Event::HardBreak => self.line.push(Inline::LineBreak),
            // Comments are marks for tests. No other HTML, and none of the extensions behind the rest, is used.
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::List(number) => {
                self.flush();
                self.number = number;
            }
            Tag::Item => {
                let bullet = match &mut self.number {
                    Some(number) => {
                        let bullet = format!("{number}.");
                        *number += 1;
                        bullet
                    }
                    None => "\\(bu".to_owned(),
                };
                self.roff.control("IP", [&*bullet, "3"]);
                self.item = true;
            }
            Tag::CodeBlock(_) => {
                self.flush();
                self.code = Some(String::new());
            }
            Tag::TableHead | Tag::TableRow => self.row.clear(),
            Tag::Strong => self.strong = true,
            Tag::Emphasis => self.emphasis = true,
            Tag::Link { dest_url, .. } => self.links.push((dest_url.into_string(), self.line.len())),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph => self.flush(),
            TagEnd::Item => {
                self.flush();
                self.item = false;
            }
            TagEnd::Heading(level) => {
                let line = std::mem::take(&mut self.line);
                self.heading(level, &plain(&line));
            }
            TagEnd::CodeBlock => {
                let code = self.code.take().unwrap_or_default();
                verbatim(self.roff, code.lines());
            }
            TagEnd::TableCell => self.row.push(std::mem::take(&mut self.line)),
            TagEnd::TableHead => self.header = self.row.iter().map(|cell| plain(cell)).collect(),
            TagEnd::TableRow => self.table_row(),
            TagEnd::Strong => self.strong = false,
            TagEnd::Emphasis => self.emphasis = false,
            TagEnd::Link => self.link(),
            _ => {}
        }
    }

    /// Writes the current paragraph.
    fn flush(&mut self) {
        if self.line.is_empty() {
            return;
        }
        if !std::mem::take(&mut self.item) {
            self.roff.control("PP", []);
        }
        self.roff.text(std::mem::take(&mut self.line));
    }

    fn heading(&mut self, level: HeadingLevel, heading: &str) {
        // The page has a title of its own. Arguments of macros stand in quotes.
        let heading =
            if heading == self.document.examples { "EXAMPLES" } else { heading }.replace('"', "\\(dq");
        match level {
            HeadingLevel::H1 => {}
            HeadingLevel::H2 => section(self.roff, &heading),
            _ => drop(self.roff.control("SS", [&*heading])),
        }
    }

    /// Writes a row of a table: the first cell with the others below it. The columns between the first and the last one
    /// have their headers.
    fn table_row(&mut self) {
        let mut cells = std::mem::take(&mut self.row);
        let last = if cells.len() > 1 { cells.pop().unwrap_or_default() } else { Vec::new() };
        let mut cells = cells.into_iter();
        entry(self.roff, cells.next().unwrap_or_default());
        let mut between = Vec::new();
        for (cell, header) in cells.zip(self.header.iter().skip(1)).filter(|(cell, _)| !cell.is_empty()) {
            let separator = if between.is_empty() { "" } else { "; " };
            between.push(roman(format!("{separator}{header}: ")));
            between.extend(cell);
        }
        let both = !between.is_empty() && !last.is_empty();
        if !between.is_empty() {
            self.roff.text(between);
        }
        if both {
            self.roff.control("br", []);
        }
        if !last.is_empty() {
            self.roff.text(last);
        }
    }

    /// Writes a link's target behind its text.
    fn link(&mut self) {
        let Some((target, start)) = self.links.pop() else { return };
        let text = plain(self.line.get(start..).unwrap_or_default());
        if let Some(place) = self.place(&target).filter(|place| *place != text) {
            self.line.push(roman(format!(" ({place})")));
        }
    }

    /// Returns what a reader of the page opens for a link; `None` for the page itself.
    fn place(&self, target: &str) -> Option<String> {
        if target.contains("://") {
            return Some(target.to_owned());
        }
        let path = target.split('#').next().filter(|path| !path.is_empty())?;
        let mut folder = PathBuf::new();
        let base = Path::new(self.document.path).parent().unwrap_or(Path::new(""));
        for part in base.join(path).components() {
            match part {
                Component::ParentDir => drop(folder.pop()),
                part => folder.push(part),
            }
        }
        let path = folder.to_string_lossy();
        match PAGES.iter().find(|page| page.path == path) {
            Some(page) if page.path == self.document.path => None,
            Some(page) => Some(format!("{}(5)", page.name)),
            None => Some(match path.strip_prefix("config/") {
                Some(example) => format!("{DOCUMENTS}examples/{example}"),
                None => path.into_owned(),
            }),
        }
    }
}

/// Returns a text without its fonts.
fn plain(line: &[Inline]) -> String {
    let parts = line.iter().map(|part| match part {
        Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
        Inline::LineBreak => " ",
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the roff of a text, as that of the configuration's page.
    fn converted(markdown: &str) -> String {
        let mut roff = Roff::new();
        let mut converter = Converter::new(&PAGES[0], &mut roff);
        for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
            converter.take(event);
        }
        roff.to_roff()
    }

    #[test]
    fn headings_are_sections() {
        assert_eq!(
            converted("# Title\n## `a`: what is \"it\"?\n### More\n## What does a whole file look like?\n"),
            ".SH \"a: what is \\(dqit\\(dq?\"\n.SS More\n.SH EXAMPLES\n"
        );
    }

    #[test]
    fn rows_of_tables_are_entries() {
        let table = "| setting | type | default | meaning |\n|---|---|---|---|\n| `a.b` | number | `1` | The *b*. |\n| `c` | text | | |\n";
        assert_eq!(
            converted(table),
            ".TP\n\\fBa.b\\fR\ntype: number; default: \\fB1\\fR\n.br\nThe \\fIb\\fR.\n.TP\n\\fBc\\fR\ntype: text\n"
        );
        assert_eq!(converted("| a | b |\n|---|---|\n| **x** | y |\n"), ".TP\n\\fBx\\fR\ny\n");
    }

    #[test]
    fn lists_and_blocks_keep_their_form() {
        assert_eq!(
            converted("Text\nin lines:\n\n- one\n- two\n\n```yaml\na:\n  .b: 1\n```\n<!-- mark -->\n"),
            ".PP\nText in lines:\n.IP \\(bu 3\none\n.IP \\(bu 3\ntwo\n.PP\n.RS 4\n.nf\na:\n  .b: 1\n.fi\n.RE\n"
        );
        assert_eq!(converted("1. one\n2. two\n"), ".IP 1. 3\none\n.IP 2. 3\ntwo\n");
    }

    #[test]
    fn links_name_what_a_reader_opens() {
        for (link, text) in [
            ("[x](#y)", "x"),
            ("[x](configuration.md#y)", "x"),
            ("[x](../rules/reference.md#y)", "x (mailflow\\-rules(5))"),
            ("[x](interfaces.md#y)", "x (docs/operate/interfaces.md)"),
            ("[x](../../config/rules)", "x (/usr/share/doc/mailflow\\-agent/examples/rules)"),
            ("<https://example.com>", "https://example.com"),
            ("[x](https://example.com)", "x (https://example.com)"),
        ] {
            assert_eq!(converted(link), format!(".PP\n{text}\n"), "{link}");
        }
    }
}
