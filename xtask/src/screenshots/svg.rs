//! Picture of a terminal: SVG text, readable on light and dark pages.

use std::{fmt::Write, ops::Range};

use super::terminal::Capture;

/// Width and height of a cell, in pixels, for a monospaced font of [`FONT_SIZE`].
const CELL: (f32, f32) = (7.83, 18.0);
const FONT_SIZE: f32 = 13.0;
/// Space around the text, and height of the title bar.
const PADDING: f32 = 14.0;
const TITLE: f32 = 32.0;

/// Smallest width of a picture, in columns.
const MIN_COLUMNS: u16 = 80;

const BACKGROUND: &str = "#0d1117";
const FOREGROUND: &str = "#e6edf3";
/// The eight colours of a terminal, and their bright variants.
const COLOURS: [&str; 16] = [
    "#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4", "#6e7681",
    "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff",
];

/// Appearance of a run of cells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Style {
    foreground: String,
    background: String,
    bold: bool,
}

/// Run of cells of one row with one appearance.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    column: u16,
    cells: u16,
    text: String,
    style: Style,
}

/// Draws rows of a terminal under a title bar with the command.
pub(super) fn draw(capture: &Capture, rows: Range<u16>, command: &str) -> String {
    let columns =
        rows.clone().map(|row| columns_in_use(capture.screen(), row)).max().unwrap_or(0).max(MIN_COLUMNS);
    let width = f32::from(columns) * CELL.0 + 2.0 * PADDING;
    let height = TITLE + f32::from(rows.end - rows.start) * CELL.1 + PADDING;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', \
         'Liberation Mono', monospace\" font-size=\"{FONT_SIZE}\" fill=\"{FOREGROUND}\">\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"8\" fill=\"{BACKGROUND}\" \
         stroke=\"#57606a\"/>\n<text x=\"{PADDING}\" y=\"21\" fill=\"#8b949e\"># {}</text>\n",
        width - 1.0,
        height - 1.0,
        escaped(command)
    );
    for (line, row) in rows.enumerate() {
        let top = TITLE + line as f32 * CELL.1;
        for run in runs(capture.screen(), row) {
            let (x, length) = (PADDING + f32::from(run.column) * CELL.0, f32::from(run.cells) * CELL.0);
            let Style { foreground, background, bold } = &run.style;
            if background != BACKGROUND {
                let rectangle =
                    format!("x=\"{x:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{}\"", CELL.1);
                // Writing to a string cannot fail.
                let _ = writeln!(text, "<rect {rectangle} fill=\"{background}\"/>");
            }
            let fill =
                if foreground == FOREGROUND { String::new() } else { format!(" fill=\"{foreground}\"") };
            let weight = if *bold { " font-weight=\"bold\"" } else { "" };
            for (offset, words) in words(&run.text) {
                let (x, y) = (x + offset as f32 * CELL.0, top + CELL.1 * 0.75);
                let length = words.chars().count() as f32 * CELL.0;
                // The length keeps columns aligned in a font of any width.
                let _ = writeln!(
                    text,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\"{fill}{weight}>{}</text>",
                    escaped(words)
                );
            }
        }
    }
    text.push_str("</svg>\n");
    text
}

/// Returns the parts of a text between two blanks or more, as a renderer may merge blanks, with their columns.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut column, mut rest) = (0, text);
    loop {
        let start = rest.trim_start_matches(' ');
        column += rest.len() - start.len();
        if start.is_empty() {
            return parts;
        }
        let (part, after) = start.split_at(start.find("  ").unwrap_or(start.trim_end().len()));
        parts.push((column, part));
        column += part.chars().count();
        rest = after;
    }
}

/// Returns the number of columns up to the last visible cell of a row.
fn columns_in_use(screen: &vt100::Screen, row: u16) -> u16 {
    runs(screen, row).last().map_or(0, |run| run.column + run.cells)
}

/// Returns the runs of a row, without blanks at its end.
fn runs(screen: &vt100::Screen, row: u16) -> Vec<Run> {
    let columns = screen.size().1.get();
    let mut runs: Vec<Run> = Vec::new();
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column).filter(|cell| !cell.is_wide_continuation()) else {
            continue;
        };
        let [foreground, background] = [(cell.fgcolor(), FOREGROUND), (cell.bgcolor(), BACKGROUND)]
            .map(|(c, default)| colour(c, default));
        let [foreground, background] =
            if cell.inverse() { [background, foreground] } else { [foreground, background] };
        let style = Style { foreground, background, bold: cell.bold() };
        let shown = if cell.has_contents() { cell.contents() } else { " " };
        let cells = if cell.is_wide() { 2 } else { 1 };
        match runs.last_mut() {
            Some(run) if run.style == style => {
                run.cells += cells;
                run.text.push_str(shown);
            }
            _ => runs.push(Run { column, cells, text: shown.to_owned(), style }),
        }
    }
    if let Some(last) = runs.last_mut().filter(|run| run.style.background == BACKGROUND) {
        let length = last.text.trim_end().chars().count();
        last.cells -= u16::try_from(last.text.chars().count() - length).unwrap_or(0);
        last.text.truncate(last.text.trim_end().len());
    }
    runs
}

fn colour(colour: vt100::Color, default: &str) -> String {
    match colour {
        vt100::Color::Default => default.to_owned(),
        vt100::Color::Idx(index) => {
            COLOURS.get(usize::from(index)).map_or(default, |colour| colour).to_owned()
        }
        vt100::Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn row(bytes: &[u8]) -> Vec<(u16, u16, String, bool)> {
        let [rows, columns] = [2, 12].map(|side| NonZeroU16::new(side).unwrap());
        let mut parser = vt100::Parser::new(rows, columns, 0);
        parser.process(bytes);
        runs(parser.screen(), 0)
            .into_iter()
            .map(|run| (run.column, run.cells, run.text, run.style.bold))
            .collect()
    }

    #[test]
    fn rows_are_cut_where_the_style_changes() {
        let bold = (0, 2, "ab".to_owned(), true);
        assert_eq!(row(b"\x1b[1mab\x1b[0m  c"), [bold, (2, 3, "  c".to_owned(), false)]);
        // Blanks in reverse are visible, the others at the end of a row are not.
        assert_eq!(row(b"\x1b[7mx  \x1b[0m")[0], (0, 3, "x  ".to_owned(), false));
        assert_eq!(words("  a b   c "), [(2, "a b"), (8, "c")]);
        assert_eq!(escaped("<a & b>"), "&lt;a &amp; b&gt;");
    }
}
