//! Parses YAML text into a tree: anchors, merge keys, duplicate keys, and limits of all of them.
//!
//! saphyr's parser provides structure and positions. serde_yaml determines the type of a plain scalar:
//! number, boolean or string.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_yaml::Value;

use super::tree::{Content, MappingEntry, Node, push_key};
use crate::config::diagnostics::{Diagnostic, DiagnosticSink, Position, quote, single_line};

/// Maximum nesting depth. The deepest setting needs five.
const MAX_DEPTH: usize = 64;
/// Maximum number of nodes that anchors and aliases may copy: a few lines of aliases can stand for billions.
const MAX_COPIES: usize = 1_000_000;

/// Parses `text`, one YAML document; `None` after an error.
pub(crate) fn read(text: &str, diagnostics: &mut DiagnosticSink) -> Option<Node> {
    // A byte order mark does not count as a column.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder =
        TreeBuilder { diagnostics, open: Vec::new(), anchors: HashMap::new(), copies: 0, root: None };
    // The scanner's position may be after the end.
    let end = Position::after(text);
    let location =
        |marker: &Marker| end.min(Position { line: marker.line().max(1), column: marker.col() + 1 });
    for event in Parser::new_from_str(text) {
        let proceed = match event {
            Ok((event, span)) => builder.event(event, location(&span.start)),
            Err(error) => {
                let why = format!("not YAML: {}", single_line(error.info()));
                builder.report_at(location(error.marker()), None, why)
            }
        };
        proceed?;
    }
    let TreeBuilder { diagnostics, root, .. } = builder;
    if root.is_none() {
        let location = diagnostics.location(Position::START);
        let expected = "the file is empty; write {} to use all defaults".to_owned();
        diagnostics.report(Diagnostic { location, path: String::new(), value: None, expected });
    }
    root
}

/// List or mapping whose end was not parsed yet.
struct OpenNode {
    header: NodeHeader,
    kind: OpenContent,
}

/// Position, anchor and tag of a value.
struct NodeHeader {
    position: Position,
    /// Number of the anchor; 0 for none.
    anchor: usize,
    tag: Option<String>,
}

enum OpenContent {
    List(Vec<Node>),
    Map(OpenMapping),
}

#[derive(Default)]
struct OpenMapping {
    seen: HashMap<String, Position>,
    entries: Vec<MappingEntry>,
    /// Values of `<<`, in their order.
    merged: Vec<Node>,
    key: Option<MappingKey>,
}

enum MappingKey {
    Name(String, Position),
    Merge,
    /// Invalid key. Its value is parsed and dropped.
    Refused,
}

struct TreeBuilder<'c> {
    diagnostics: &'c mut DiagnosticSink,
    open: Vec<OpenNode>,
    anchors: HashMap<usize, Node>,
    copies: usize,
    root: Option<Node>,
}

impl TreeBuilder<'_> {
    /// Processes an event; `None` if parsing cannot continue.
    fn event(&mut self, event: Event<'_>, position: Position) -> Option<()> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Some(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                self.report_at(position, None, "a second YAML document; expected one".to_owned())
            }
            Event::DocumentStart(_) => Some(()),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return self.report_at(position, None, "an alias inside its own anchor".to_owned());
                };
                self.count_copies(&node, position)?;
                self.add(node);
                Some(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = match style {
                    ScalarStyle::Plain => resolve_scalar(&text),
                    _ => Value::String(text.clone().into_owned()),
                };
                let tag = tag.map(|tag| tag.to_string());
                let content = Content::Scalar { text: text.into_owned(), value };
                self.close_node(NodeHeader { position, anchor, tag }, content)
            }
            Event::SequenceStart(anchor, tag) => {
                let tag = tag.map(|tag| tag.to_string());
                self.open_node(NodeHeader { position, anchor, tag }, OpenContent::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let tag = tag.map(|tag| tag.to_string());
                self.open_node(NodeHeader { position, anchor, tag }, OpenContent::Map(OpenMapping::default()))
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let OpenNode { header, kind } = self.open.pop()?;
                let content = match kind {
                    OpenContent::List(items) => Content::List(items),
                    OpenContent::Map(entries) => Content::Map(self.merge(entries)),
                };
                self.close_node(header, content)
            }
        }
    }

    fn open_node(&mut self, header: NodeHeader, kind: OpenContent) -> Option<()> {
        if self.open.len() == MAX_DEPTH {
            return self.report_at(header.position, None, format!("nested deeper than {MAX_DEPTH}"));
        }
        self.open.push(OpenNode { header, kind });
        Some(())
    }

    /// Adds a complete value, and stores it if it has an anchor.
    fn close_node(
        &mut self,
        NodeHeader { position, anchor, tag }: NodeHeader,
        content: Content,
    ) -> Option<()> {
        let mut node = Node { position, content };
        if let Some(tag) = tag {
            let expected = "YAML tags are not supported; put a text that begins with ! in quotes";
            self.report_at(position, Some(quote(&tag)), expected.to_owned());
            node.content = Content::Refused;
        }
        if anchor != 0 {
            self.count_copies(&node, position)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node);
        Some(())
    }

    /// Reports an error. Returns `None`.
    fn report_at(&mut self, position: Position, value: Option<String>, expected: String) -> Option<()> {
        let location = self.diagnostics.location(position);
        self.diagnostics.report(Diagnostic { location, path: self.path(), value, expected });
        None
    }

    /// Returns the path of the current setting, such as `rules[0].window`.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.kind {
                OpenContent::List(items) => path.push_str(&format!("[{}]", items.len())),
                OpenContent::Map(OpenMapping { key: Some(MappingKey::Name(key, _)), .. }) => {
                    push_key(&mut path, key)
                }
                OpenContent::Map(_) => {}
            }
        }
        path
    }

    fn count_copies(&mut self, node: &Node, position: Position) -> Option<()> {
        self.copies += node.size();
        if self.copies <= MAX_COPIES {
            return Some(());
        }
        self.report_at(position, None, format!("anchors and aliases expand to more than {MAX_COPIES} values"))
    }

    /// Adds a node to the innermost open list or mapping.
    fn add(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.kind {
            OpenContent::List(items) => items.push(node),
            OpenContent::Map(entries) => match entries.key.take() {
                None => {
                    let key = self.key(node);
                    if let Some(OpenNode { kind: OpenContent::Map(entries), .. }) = self.open.last_mut() {
                        entries.key = Some(key);
                    }
                }
                Some(MappingKey::Merge) => entries.merged.push(node),
                Some(MappingKey::Refused) => {}
                Some(MappingKey::Name(key, position)) => {
                    entries.entries.push(MappingEntry { key, position, value: node })
                }
            },
        }
    }

    fn key(&mut self, Node { position, content }: Node) -> MappingKey {
        let Content::Scalar { text, .. } = content else {
            if content != Content::Refused {
                self.report_at(position, None, "a key must be a name".to_owned());
            }
            return MappingKey::Refused;
        };
        let Some(OpenNode { kind: OpenContent::Map(entries), .. }) = self.open.last_mut() else {
            return MappingKey::Refused;
        };
        if let Some(first) = entries.seen.get(&text).copied() {
            self.report_at(position, Some(quote(&text)), format!("this key was given before, at {first}"));
            return MappingKey::Refused;
        }
        entries.seen.insert(text.clone(), position);
        if text == "<<" { MappingKey::Merge } else { MappingKey::Name(text, position) }
    }

    /// Applies `<<`: keys of the mapping itself win, then those of the first merged mapping.
    fn merge(&mut self, OpenMapping { entries: mut own, merged, .. }: OpenMapping) -> Vec<MappingEntry> {
        let mut seen: HashSet<String> = own.iter().map(|entry| entry.key.clone()).collect();
        let mut queue = Vec::new();
        for node in merged {
            match node.content {
                Content::List(items) => queue.extend(items),
                Content::Map(_) | Content::Scalar { .. } | Content::Refused => queue.push(node),
            }
        }
        for node in queue {
            let value = match node.content {
                Content::Map(entries) => {
                    own.extend(entries.into_iter().filter(|entry| seen.insert(entry.key.clone())));
                    continue;
                }
                Content::Refused => continue,
                Content::Scalar { text, .. } => quote(&text),
                Content::List(_) => "a list".to_owned(),
            };
            self.report_at(node.position, Some(value), "only a mapping can be merged".to_owned());
        }
        own
    }
}

/// Determines the value of a plain scalar by serde_yaml's rules (YAML 1.2 core schema).
fn resolve_scalar(text: &str) -> Value {
    match serde_yaml::from_str(text) {
        Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) => value,
        // A scalar's text may parse as another structure on its own.
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Node, Vec<String>> {
        let mut diagnostics = DiagnosticSink::new("f");
        let node = read(text, &mut diagnostics);
        let lines = |diagnostics: crate::config::diagnostics::Diagnostics| {
            diagnostics.iter().map(ToString::to_string).collect()
        };
        diagnostics.finish(node).map(|(node, _)| node).map_err(lines)
    }

    fn value(node: &Node) -> Value {
        match &node.content {
            Content::Scalar { value, .. } => value.clone(),
            Content::Refused => panic!("refused"),
            Content::List(items) => Value::Sequence(items.iter().map(value).collect()),
            Content::Map(entries) => Value::Mapping(
                entries
                    .iter()
                    .map(|entry| (Value::String(entry.key.clone()), self::value(&entry.value)))
                    .collect(),
            ),
        }
    }

    fn diagnostics(text: &str) -> Vec<String> {
        tree(text).expect_err(text)
    }

    #[test]
    fn values_are_those_of_serde_yaml() {
        for text in [
            crate::config::DEFAULT,
            "a: [1, -2, 0x1f, 1.5, true, no, off, ~, '', \"7\", 010, 1e3, .inf, 10.0.0.0/8, 1:2]",
            "a: |\n  text\n  more\nb: >\n  folded\n  text\nc: plain\n  text\n",
            "a: &x [1, {b: 2}]\nc: *x\nd: {e: *x}\n",
        ] {
            assert_eq!(value(&tree(text).unwrap()), serde_yaml::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn merging_is_that_of_serde_yaml() {
        let text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {y: 3, <<: [*a, *b]}\nd:\n  <<: *b\n  w: 0\n";
        let mut expected: Value = serde_yaml::from_str(text).unwrap();
        expected.apply_merge().unwrap();
        assert_eq!(value(&tree(text).unwrap()), expected);
        assert_eq!(diagnostics("a: {<<: 7}"), ["f:1:9: a: \"7\": only a mapping can be merged"]);
    }

    #[test]
    fn keys_and_values_have_positions() {
        let node = tree("a: 1\nñb:\n  - x\n  - {c: y}\n").unwrap();
        let b = node.get("ñb").unwrap();
        assert_eq!(b.position, Position { line: 2, column: 1 });
        let Content::List(items) = &b.value.content else { panic!("a list") };
        assert_eq!(items[1].position, Position { line: 4, column: 5 });
        let c = items[1].get("c").unwrap();
        assert_eq!((c.position.column, c.value.position.column), (6, 9));
    }

    #[test]
    fn syntax_errors_have_positions() {
        assert_eq!(diagnostics(""), ["f:1:1: the file is empty; write {} to use all defaults"]);
        assert_eq!(diagnostics("# only a comment\n").len(), 1);
        assert_eq!(
            diagnostics("a: 1\nb: {a: 1, c: 2, a: 3}\na: 2\n"),
            [
                "f:2:17: b: \"a\": this key was given before, at 2:5",
                "f:3:1: \"a\": this key was given before, at 1:1"
            ]
        );
        assert_eq!(diagnostics("a: 1\n---\nb: 2\n"), ["f:2:1: a second YAML document; expected one"]);
        assert_eq!(
            diagnostics("a: *nowhere\n"),
            ["f:1:4: a: not YAML: while parsing node, found unknown anchor"]
        );
        assert!(diagnostics("a:\n\t- b\n")[0].starts_with("f:2:"), "{:?}", diagnostics("a:\n\t- b\n"));
        assert!(diagnostics("a: [1, 2\nb: 3\n")[0].contains("not YAML"));
        assert!(diagnostics("a: &x [*x]\n")[0].contains("its own anchor"));
        assert_eq!(diagnostics("? [a]\n: b\n"), ["f:1:3: a key must be a name"]);
    }

    #[test]
    fn byte_order_mark_is_no_column() {
        for text in ["pol: [", "a: 1\nb: 2\na: 3\n", "a: !x 1\n", "{a: 1, a: 2}\n", "{a: b c d e f g"] {
            assert_eq!(diagnostics(&format!("\u{feff}{text}")), diagnostics(text), "{text}");
        }
    }

    #[test]
    fn a_tag_is_refused_with_the_hint_to_quote() {
        let found = diagnostics("networks: [10.0.0.0/8, !10.9.0.0/16]\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("f:1:24: networks[1]: \"!10.9.0.0/16\": YAML tags"), "{found:?}");
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(
            diagnostics(&bomb).last().unwrap().contains("expand to more than"),
            "{:?}",
            diagnostics(&bomb)
        );
        assert!(diagnostics(&"- ".repeat(100_000))[0].contains("nested deeper"));
        assert!(!diagnostics(&"[".repeat(100_000)).is_empty());
        assert!(diagnostics(&"{a: ".repeat(100))[0].contains("nested deeper"));
    }
}
