//! The live table on a terminal.

use std::{
    io::{self, Write},
    time::Duration,
};

use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    execute, queue,
    style::{Attribute, Print, SetAttribute},
    terminal::{self, ClearType},
};

use super::table::{Look, Span};
use crate::{
    cli::args::Column,
    control::{CallError, Reply, Top},
    util::terminal::escape,
};
use mailflow_kernel::clock;

/// Why it ended.
pub(crate) enum End {
    /// Somebody pressed `q`.
    Asked,
    /// The agent did not answer with a table.
    Unanswered(Box<Other>),
}

/// Shows the table until somebody ends it.
pub(crate) fn run(
    look: Look,
    interval: Duration,
    ask: &mut dyn FnMut() -> Result<Top, Other>,
) -> io::Result<End> {
    let mut screen = Screen { look, offset: 0, typing: None };
    let restored = Restored::take()?;
    let end = screen.show(interval, ask);
    drop(restored);
    end
}

/// The terminal as it was, once this is dropped.
struct Restored;

impl Restored {
    fn take() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let restored = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(restored)
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

struct Screen {
    look: Look,
    /// Rows above the first that is shown.
    offset: usize,
    /// The filter while it is typed.
    typing: Option<String>,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Draw,
    Ask,
    End,
}

impl Screen {
    fn show(&mut self, interval: Duration, ask: &mut dyn FnMut() -> Result<Top, Other>) -> io::Result<End> {
        let mut before = None;
        loop {
            let now = match ask() {
                Ok(now) => now,
                Err(other) => return Ok(End::Unanswered(Box::new(other))),
            };
            let asked = clock::now();
            loop {
                self.draw(&now, before.as_ref())?;
                let left = interval.saturating_sub(clock::now().since(asked));
                if left.is_zero() || !event::poll(left)? {
                    break;
                }
                let then = match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
                    _ => Then::Draw,
                };
                match then {
                    Then::Draw => {}
                    Then::Ask => break,
                    Then::End => return Ok(End::Asked),
                }
            }
            before = Some(now);
        }
    }

    fn key(&mut self, KeyEvent { code, modifiers, .. }: KeyEvent) -> Then {
        if modifiers.contains(KeyModifiers::CONTROL) && code == KeyCode::Char('c') {
            return Then::End;
        }
        if let Some(typed) = &mut self.typing {
            match code {
                KeyCode::Enter => self.look.filter = self.typing.take().unwrap_or_default(),
                KeyCode::Esc => self.typing = None,
                KeyCode::Backspace => drop(typed.pop()),
                KeyCode::Char(letter) => typed.push(letter),
                _ => {}
            }
            return Then::Draw;
        }
        match code {
            KeyCode::Char('q') => return Then::End,
            KeyCode::Char(' ') => return Then::Ask,
            KeyCode::Char('p') => self.sort(Column::Packets),
            KeyCode::Char('b') => self.sort(Column::Bytes),
            KeyCode::Char('f') => self.sort(Column::Flows),
            KeyCode::Char('m') => self.sort(Column::Messages),
            KeyCode::Char('c') => self.sort(Column::Counted),
            KeyCode::Char('s') => self.sort(Column::Source),
            KeyCode::Char('d') => {
                self.look.span = if self.look.span == Span::Start { Span::Second } else { Span::Start };
            }
            KeyCode::Char('/') => self.typing = Some(self.look.filter.clone()),
            KeyCode::Esc => self.look.filter.clear(),
            KeyCode::Down => self.offset += 1,
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset += 10,
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(10),
            KeyCode::Home => self.offset = 0,
            _ => {}
        }
        Then::Draw
    }

    fn sort(&mut self, column: Column) {
        self.look.reversed = self.look.sort == column && !self.look.reversed;
        self.look.sort = column;
    }

    fn draw(&mut self, now: &Top, before: Option<&Top>) -> io::Result<()> {
        let (width, height) = terminal::size()?;
        let room = usize::from(height.saturating_sub(3));
        let rows = self.look.rows(now, before);
        self.offset = self.offset.min(rows.len().saturating_sub(room));
        let cut = |line: &str| escape(line).chars().take(usize::from(width)).collect::<String>();
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0), Print(cut(&self.title(rows.len()))))?;
        queue!(out, terminal::Clear(ClearType::UntilNewLine), cursor::MoveTo(0, 1))?;
        queue!(out, SetAttribute(Attribute::Reverse), Print(cut(&self.look.head())))?;
        queue!(out, SetAttribute(Attribute::Reset), terminal::Clear(ClearType::UntilNewLine))?;
        for (line, row) in rows.iter().skip(self.offset).take(room).enumerate() {
            let line = u16::try_from(line).unwrap_or(u16::MAX);
            queue!(out, cursor::MoveTo(0, line.saturating_add(2)), Print(cut(&self.look.line(row))))?;
            queue!(out, terminal::Clear(ClearType::UntilNewLine))?;
        }
        let below = u16::try_from(rows.len().saturating_sub(self.offset).min(room)).unwrap_or(u16::MAX);
        queue!(out, cursor::MoveTo(0, below.saturating_add(2)), terminal::Clear(ClearType::FromCursorDown))?;
        let help = "p b f m c s sort  d by second  / filter  q end";
        queue!(out, cursor::MoveTo(0, height.saturating_sub(1)), Print(cut(help)))?;
        out.flush()
    }

    fn title(&self, rows: usize) -> String {
        let span = match self.look.span {
            Span::Start => "since the agent started",
            Span::Second => "by second",
        };
        let filter = match (&self.typing, self.look.filter.as_str()) {
            (Some(typed), _) => format!("  filter: {typed}_"),
            (None, "") => String::new(),
            (None, filter) => format!("  filter: {filter}"),
        };
        format!("mailflow: {rows} sources, client to server, {span}{filter}")
    }
}

/// What came instead of a table.
pub(crate) type Other = Result<Reply, CallError>;

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        let look = Look { sort: Column::Bytes, reversed: false, filter: String::new(), span: Span::Start };
        Screen { look, offset: 0, typing: None }
    }

    fn press(screen: &mut Screen, keys: &str) -> Vec<Then> {
        let code = |key| match key {
            '\n' => KeyCode::Enter,
            '\u{8}' => KeyCode::Backspace,
            '\u{1b}' => KeyCode::Esc,
            key => KeyCode::Char(key),
        };
        keys.chars().map(|key| screen.key(KeyEvent::new(code(key), KeyModifiers::NONE))).collect()
    }

    #[test]
    fn keys_sort_filter_and_end() {
        let mut screen = screen();
        press(&mut screen, "p");
        assert_eq!((screen.look.sort, screen.look.reversed), (Column::Packets, false));
        press(&mut screen, "p");
        assert!(screen.look.reversed, "the same key turns it");
        press(&mut screen, "/10.x\u{8}q");
        assert_eq!(screen.typing.as_deref(), Some("10.q"), "q is a letter here");
        press(&mut screen, "\u{8}\n");
        assert_eq!((screen.look.filter.as_str(), screen.typing.is_none()), ("10.", true));
        press(&mut screen, "\u{1b}d");
        assert_eq!((screen.look.filter.as_str(), screen.look.span), ("", Span::Second));
        assert_eq!(press(&mut screen, " q"), [Then::Ask, Then::End]);
        assert_eq!(screen.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::End);
    }
}
