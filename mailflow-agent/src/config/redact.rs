//! Redacts secrets of a configuration file: URLs lose their path, query and user information, and HTTP
//! headers their values.

use saphyr_parser::{Event, Parser};

/// Keys of settings whose values are URLs.
const ADDRESS_KEYS: [&str; 3] = ["url", "urls", "proxy"];
/// Key of HTTP headers. Each of their values may be a secret.
const HEADERS_KEY: &str = "headers";
/// Replacement of redacted text.
const HIDDEN: &str = "...";

/// Returns `text` without values that may be secrets. Text after a YAML error is omitted.
pub fn redacted(text: &str) -> String {
    let (values, error_offset) = values(text);
    let mut shown = String::new();
    let mut at = 0;
    for SecretValue { from, to, address } in values {
        let (Some(before), Some(value)) = (text.get(at..from), text.get(from..to)) else { continue };
        shown.push_str(&without_secrets(before));
        match address {
            true => shown.push_str(&redacted_address(value)),
            false => shown.push_str(&format!("\"{HIDDEN}\"")),
        }
        at = to;
    }
    let end = error_offset.unwrap_or(text.len()).max(at);
    shown.push_str(&without_secrets(text.get(at..end).unwrap_or_default()));
    if error_offset.is_some() {
        shown.push_str("\n# The rest is not shown: it is not valid YAML.\n");
    }
    shown
}

/// Byte range of a value that may be a secret.
struct SecretValue {
    from: usize,
    to: usize,
    /// True for a URL, whose origin may be shown.
    address: bool,
}

/// Mapping or list whose end was not parsed yet.
enum OpenCollection {
    Map { key: Option<String>, hidden: Option<bool> },
    List { hidden: Option<bool> },
}

/// Returns the values that may be secrets in their order, and the offset of the first YAML error.
fn values(text: &str) -> (Vec<SecretValue>, Option<usize>) {
    // The parser's positions are in characters.
    let offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let offset = |index: usize| offsets.get(index).copied().unwrap_or(text.len());
    let (mut values, mut open): (Vec<SecretValue>, Vec<OpenCollection>) = (Vec::new(), Vec::new());
    // End of the last parsed event.
    let mut parsed_to = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            // The parser reads ahead: it may not have reported a value before the error.
            Err(_) => return (values, Some(parsed_to)),
        };
        parsed_to = parsed_to.max(offset(span.end.index()));
        // `Some` if the next value is secret: true for a URL.
        let hidden = match open.last() {
            Some(OpenCollection::Map { key: Some(key), hidden }) => hidden.or(match key.as_str() {
                HEADERS_KEY => Some(false),
                key if ADDRESS_KEYS.contains(&key) => Some(true),
                _ => None,
            }),
            Some(OpenCollection::List { hidden }) => *hidden,
            _ => None,
        };
        match event {
            Event::Scalar(scalar, ..) => {
                match open.last_mut() {
                    Some(OpenCollection::Map { key: key @ None, .. }) => {
                        *key = Some(scalar.into_owned());
                        continue;
                    }
                    Some(OpenCollection::Map { key, .. }) => *key = None,
                    _ => {}
                }
                if let Some(address) = hidden {
                    let (from, to) = (offset(span.start.index()), offset(span.end.index()));
                    let plain = address && matches!(scalar.as_ref(), "off" | "environment");
                    if from < to && !plain {
                        values.push(SecretValue { from, to, address });
                    }
                }
            }
            Event::MappingStart(..) => {
                consume_key(&mut open);
                open.push(OpenCollection::Map { key: None, hidden });
            }
            Event::SequenceStart(..) => {
                consume_key(&mut open);
                open.push(OpenCollection::List { hidden });
            }
            Event::MappingEnd | Event::SequenceEnd => drop(open.pop()),
            Event::Alias(_) => consume_key(&mut open),
            _ => {}
        }
    }
    (values, None)
}

/// Marks the key of the innermost mapping as used. A key that is not a scalar becomes an empty key.
fn consume_key(open: &mut [OpenCollection]) {
    if let Some(OpenCollection::Map { key, .. }) = open.last_mut() {
        *key = match key {
            Some(_) => None,
            None => Some(String::new()),
        };
    }
}

/// Redacts a URL.
fn redacted_address(value: &str) -> String {
    let shown = without_secrets(value);
    // A value without a scheme may be any secret.
    if shown.contains("://") || shown.trim().is_empty() { shown } else { format!("\"{HIDDEN}\"") }
}

/// Redacts the URLs of `text` after their port, their user information, and the credentials of authorization
/// schemes. Comments are redacted too.
fn without_secrets(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let find = |mark: &str, from: usize| lower.get(from..)?.find(mark).map(|at| from + at);
    // A mark is searched again only after it was passed, so the time is proportional to the text.
    let mut marks = ["://", "bearer ", "basic "].map(|mark| (mark, find(mark, 0)));
    let mut shown = String::new();
    let mut at = 0;
    loop {
        for (mark, next) in &mut marks {
            if next.is_some_and(|next| next < at) {
                *next = find(mark, at);
            }
        }
        let found = marks.iter().filter_map(|(mark, next)| Some(((*next)?, *mark))).min();
        let Some((found, mark)) = found else { break };
        let (before, after) = text.split_at(found + mark.len());
        shown.push_str(&before[at..]);
        at = before.len();
        let blank = if mark == "://" { 0 } else { after.len() - after.trim_start_matches([' ', '\t']).len() };
        let (blank, after) = after.split_at(blank);
        let end = after.find(|c: char| c.is_whitespace() || "\"'`,]})>".contains(c)).unwrap_or(after.len());
        let (token, _) = after.split_at(end);
        if mark != "://" {
            // "basic auth" and "bearer token" are ordinary words. The next word may be a scheme too.
            let scheme = ["basic", "bearer"].iter().any(|scheme| token.eq_ignore_ascii_case(scheme));
            let word = token.len() <= 6
                && !token.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
            if !word && !scheme {
                shown.extend([blank, HIDDEN]);
                at += blank.len() + token.len();
            }
            continue;
        }
        at += token.len();
        let (authority, more) = token.split_at(token.find(['/', '?', '#']).unwrap_or(token.len()));
        shown.push_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        shown.push_str(match more {
            "" | "/" => more,
            _ => "/...",
        });
    }
    shown + text.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted() {
        let text = r#"
outputs:
  alerts:
    - { type: webhook, url: "https://h.example:8443/a/PLANTED?k=PLANTED", headers: { authorization: "Bearer PLANTED", x: 'PLANTED' } }
    - type: alertmanager   # as https://old.example/PLANTED was, with Basic PLANTED
      urls:
        - http://a.example:9093/PLANTED
        - http://127.0.0.1:9093
      headers:
        ü: PLANTED
        x-long: >
          PLANTED
          PLANTED
        x-list: [PLANTED, { y: PLANTED }]
      proxy: http://user:PLANTED@proxy.example:3128
      timeout: 5s
    - { type: webhook, url: PLANTED, proxy: off, bearer_token_file: /etc/token }
interfaces: [{ name: lan0 }]
"#;
        let shown = redacted(text);
        assert!(!shown.contains("PLANTED"), "{shown}");
        for kept in [
            "https://h.example:8443/...",
            "http://a.example:9093/...",
            "- http://127.0.0.1:9093\n",
            "http://proxy.example:3128\n",
            "proxy: off",
            "bearer_token_file: /etc/token",
            "interfaces: [{ name: lan0 }]\n",
            "timeout: 5s",
        ] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn text_after_a_yaml_error_is_omitted() {
        for text in [
            "a: 1\nurl: [\"PLANTED\n",
            "a: 1\nheaders: { x: PLANTED",
            "a: 1\nb:\n  - { headers: { x: PLANTED } \n  - { c: d }\n",
            "a: 1\nheaders:\n  x: PLANTED\n b: *nope\n  PLANTED\n",
            "a: 1\nheaders:\n\tx: PLANTED\n",
            "a: 1\nurl: PLANTED: PLANTED\n",
        ] {
            let shown = redacted(text);
            assert!(!shown.contains("PLANTED") && shown.starts_with("a: 1\n"), "{text}: {shown}");
        }
    }

    #[test]
    fn byte_order_mark_shifts_no_position() {
        let text = "url: x-PLANTED\nheaders: { a: PLANTED }\n";
        assert_eq!(redacted(&format!("\u{feff}{text}")), format!("\u{feff}{}", redacted(text)));
    }

    #[test]
    fn credentials_after_words_and_blanks_are_redacted() {
        for (text, shown) in [
            ("# Bearer  PLANTED1 and", "# Bearer  ... and"),
            ("# basic\tauth: Basic \tPLANTED1", "# basic\tauth: Basic \t..."),
            ("# basic basic PLANTED1", "# basic basic ..."),
            ("# Basic Bearer PLANTED1", "# Basic Bearer ..."),
            ("# bearer http://u:PLANTED@h/PLANTED", "# bearer ..."),
            ("# basic auth of http://u:PLANTED@h/PLANTED", "# basic auth of http://h/..."),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn the_time_is_proportional_to_the_text() {
        let text = "# basic a:a ".repeat(100_000);
        let start = mailflow_kernel::clock::now();
        assert_eq!(redacted(&text), text);
        let elapsed = mailflow_kernel::clock::now().since(start);
        assert!(elapsed < std::time::Duration::from_secs(5), "{elapsed:?}");
    }

    #[test]
    fn text_without_secrets_is_unchanged() {
        assert_eq!(redacted(crate::config::DEFAULT), crate::config::DEFAULT);
        assert_eq!(redacted("# nothing\r\n"), "# nothing\r\n");
    }
}
