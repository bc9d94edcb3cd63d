//! Escapes text for terminals and logs.
//!
//! Comments of lists, descriptions, reasons, names of groups, files and interfaces, and replies of servers
//! are untrusted input. They may contain characters that control a terminal or are invisible. All output of
//! commands and all log lines pass through this module, so that no output site can omit the escaping.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write},
};

/// Returns `text` with a JSON escape in place of each character that a terminal acts on or does not show:
/// controls (C0, C1, DEL), line and paragraph separators, bidirectional controls, and characters without a
/// glyph (Unicode's Default_Ignorable_Code_Point).
///
/// Within a JSON string the result has the same meaning.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if is_unsafe(c) => {
                // Above 0xffff a JSON escape is a surrogate pair (RFC 8259, 7).
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a `String` cannot fail.
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

const fn is_unsafe(c: char) -> bool {
    matches!(c,
        // Cc.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Zl, Zp, and the bidirectional controls between them.
        | '\u{2028}'..='\u{202e}'
        // Default_Ignorable_Code_Point (Unicode 16, DerivedCoreProperties.txt).
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Returns standard output with escaping.
pub fn out() -> Terminal<io::Stdout> {
    Terminal(io::stdout())
}

/// Returns standard error with escaping.
pub fn err() -> Terminal<io::Stderr> {
    Terminal(io::stderr())
}

/// Writer that escapes the text that passes through it.
///
/// The text of one `write!` or `writeln!` is one line or a part of one: only a line feed at its end ends a
/// line. So untrusted text cannot start a line of its own. Bytes written otherwise (JSON) keep their line
/// feeds.
#[derive(Debug)]
pub struct Terminal<W>(pub W);

impl<W: Write> Write for Terminal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).split_inclusive('\n') {
            self.line(line)?;
        }
        Ok(bytes.len())
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.line(&text.to_string())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Terminal<W> {
    fn line(&mut self, line: &str) -> io::Result<()> {
        let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
        self.0.write_all(escape(text).as_bytes())?;
        self.0.write_all(end.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Terminal<Vec<u8>>) -> io::Result<()>) -> String {
        let mut terminal = Terminal(Vec::new());
        write(&mut terminal).unwrap();
        String::from_utf8(terminal.0).unwrap()
    }

    #[test]
    fn control_characters_are_escaped_and_others_are_not() {
        for safe in ["10.0.0.0/8  Zürich, Главный офис, 本社, العربية, 👍", "", "a\\b \"c\""]
        {
            assert!(matches!(escape(safe), Cow::Borrowed(_)), "{safe}");
        }
        for (text, safe) in [
            ("\u{1b}[31mred\u{7}\u{8}", "\\u001b[31mred\\u0007\\u0008"),
            ("a\r\n\tb\0\u{7f}", "a\\r\\n\\tb\\u0000\\u007f"),
            ("\u{9b}2J\u{90}\u{9c}\u{85}", "\\u009b2J\\u0090\\u009c\\u0085"),
            (
                "\u{202e}gpj\u{202c}\u{2066}\u{2069}\u{200e}\u{61c}",
                "\\u202egpj\\u202c\\u2066\\u2069\\u200e\\u061c",
            ),
            ("\u{2028}\u{2029}\u{200b}\u{feff}\u{2060}\u{ad}", "\\u2028\\u2029\\u200b\\ufeff\\u2060\\u00ad"),
            ("\u{e0041}\u{e007f}", "\\udb40\\udc41\\udb40\\udc7f"),
        ] {
            assert_eq!(escape(text), safe);
            let json: String = serde_json::from_str(&format!("\"{}\"", escape(text))).unwrap();
            assert_eq!(json, text, "the same within JSON");
        }
    }

    #[test]
    fn text_cannot_start_a_line() {
        let reason = "x\nFIRING r: 10.0.0.1";
        assert_eq!(written(|out| writeln!(out, "  {reason}")), "  x\\nFIRING r: 10.0.0.1\n");
        let json = serde_json::json!({ "a": reason, "b": "\u{9b}\u{202e}" });
        let text = written(|out| {
            serde_json::to_writer_pretty(&mut *out, &json)?;
            writeln!(out)
        });
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.contains("\\u009b\\u202e")
                && serde_json::from_str::<serde_json::Value>(&text).unwrap() == json
        );
        assert_eq!(written(|out| out.write_all(b"a\xff\n\x1bb")), "a\u{fffd}\n\\u001bb");
    }
}
