//! Live table on a terminal.

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

use super::table::{CountingPeriod, TableView};
use crate::{
    cli::args::TopColumn,
    control::{CallError, Reply, TopSnapshot},
    util::terminal::escape,
};
use mailflow_kernel::clock;

/// Reason why the table ended.
pub(crate) enum ExitReason {
    /// Key of the user.
    Quit,
    /// Error, or a reply that is no table.
    NoTable(Box<UnexpectedReply>),
}

/// Shows the table until the user quits or the agent fails to reply.
pub(crate) fn run(
    view: TableView,
    interval: Duration,
    fetch: &mut dyn FnMut() -> Result<TopSnapshot, UnexpectedReply>,
) -> io::Result<ExitReason> {
    let mut screen = Screen { view, offset: 0, typing: None };
    let restored = RawTerminal::enter()?;
    let end = screen.show(interval, fetch);
    drop(restored);
    end
}

/// Guard that restores the terminal when it is dropped.
struct RawTerminal;

impl RawTerminal {
    fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let restored = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(restored)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be closed already.
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

struct Screen {
    view: TableView,
    /// Number of rows above the first visible row.
    offset: usize,
    /// Filter while the user types it.
    typing: Option<String>,
}

/// Action of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyAction {
    Draw,
    Refresh,
    Quit,
}

impl Screen {
    fn show(
        &mut self,
        interval: Duration,
        fetch: &mut dyn FnMut() -> Result<TopSnapshot, UnexpectedReply>,
    ) -> io::Result<ExitReason> {
        let mut before = None;
        loop {
            let now = match fetch() {
                Ok(now) => now,
                Err(other) => return Ok(ExitReason::NoTable(Box::new(other))),
            };
            let fetched_at = clock::now();
            loop {
                self.draw(&now, before.as_ref())?;
                let remaining = interval.saturating_sub(clock::now().since(fetched_at));
                if remaining.is_zero() || !event::poll(remaining)? {
                    break;
                }
                let action = match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
                    _ => KeyAction::Draw,
                };
                match action {
                    KeyAction::Draw => {}
                    KeyAction::Refresh => break,
                    KeyAction::Quit => return Ok(ExitReason::Quit),
                }
            }
            before = Some(now);
        }
    }

    fn key(&mut self, KeyEvent { code, modifiers, .. }: KeyEvent) -> KeyAction {
        if modifiers.contains(KeyModifiers::CONTROL) && code == KeyCode::Char('c') {
            return KeyAction::Quit;
        }
        if let Some(typed) = &mut self.typing {
            match code {
                KeyCode::Enter => self.view.filter = self.typing.take().unwrap_or_default(),
                KeyCode::Esc => self.typing = None,
                KeyCode::Backspace => drop(typed.pop()),
                KeyCode::Char(letter) => typed.push(letter),
                _ => {}
            }
            return KeyAction::Draw;
        }
        match code {
            KeyCode::Char('q') => return KeyAction::Quit,
            KeyCode::Char(' ') => return KeyAction::Refresh,
            KeyCode::Char('p') => self.sort(TopColumn::Packets),
            KeyCode::Char('b') => self.sort(TopColumn::Bytes),
            KeyCode::Char('f') => self.sort(TopColumn::Flows),
            KeyCode::Char('m') => self.sort(TopColumn::Messages),
            KeyCode::Char('c') => self.sort(TopColumn::Counted),
            KeyCode::Char('s') => self.sort(TopColumn::Source),
            KeyCode::Char('d') => {
                self.view.period = if self.view.period == CountingPeriod::SinceStart {
                    CountingPeriod::PerSecond
                } else {
                    CountingPeriod::SinceStart
                };
            }
            KeyCode::Char('/') => self.typing = Some(self.view.filter.clone()),
            KeyCode::Esc => self.view.filter.clear(),
            KeyCode::Down => self.offset += 1,
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset += 10,
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(10),
            KeyCode::Home => self.offset = 0,
            _ => {}
        }
        KeyAction::Draw
    }

    fn sort(&mut self, column: TopColumn) {
        self.view.reversed = self.view.sort == column && !self.view.reversed;
        self.view.sort = column;
    }

    fn draw(&mut self, now: &TopSnapshot, before: Option<&TopSnapshot>) -> io::Result<()> {
        let (width, height) = terminal::size()?;
        let visible_rows = usize::from(height.saturating_sub(3));
        let rows = self.view.rows(now, before);
        self.offset = self.offset.min(rows.len().saturating_sub(visible_rows));
        let fit = |line: &str| escape(line).chars().take(usize::from(width)).collect::<String>();
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0), Print(fit(&self.title(rows.len()))))?;
        queue!(out, terminal::Clear(ClearType::UntilNewLine), cursor::MoveTo(0, 1))?;
        queue!(out, SetAttribute(Attribute::Reverse), Print(fit(&self.view.header())))?;
        queue!(out, SetAttribute(Attribute::Reset), terminal::Clear(ClearType::UntilNewLine))?;
        for (line, row) in rows.iter().skip(self.offset).take(visible_rows).enumerate() {
            let line = u16::try_from(line).unwrap_or(u16::MAX);
            queue!(out, cursor::MoveTo(0, line.saturating_add(2)), Print(fit(&self.view.line(row))))?;
            queue!(out, terminal::Clear(ClearType::UntilNewLine))?;
        }
        let below =
            u16::try_from(rows.len().saturating_sub(self.offset).min(visible_rows)).unwrap_or(u16::MAX);
        queue!(out, cursor::MoveTo(0, below.saturating_add(2)), terminal::Clear(ClearType::FromCursorDown))?;
        let help = "p b f m c s sort  d per second  / filter  q end";
        queue!(out, cursor::MoveTo(0, height.saturating_sub(1)), Print(fit(help)))?;
        out.flush()
    }

    fn title(&self, rows: usize) -> String {
        let period = match self.view.period {
            CountingPeriod::SinceStart => "since the agent started",
            CountingPeriod::PerSecond => "per second",
        };
        let filter = match (&self.typing, self.view.filter.as_str()) {
            (Some(typed), _) => format!("  filter: {typed}_"),
            (None, "") => String::new(),
            (None, filter) => format!("  filter: {filter}"),
        };
        format!("mailflow: {rows} sources, client to server, {period}{filter}")
    }
}

/// Reply or error instead of a table.
pub(crate) type UnexpectedReply = Result<Reply, CallError>;

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        let view = TableView {
            sort: TopColumn::Bytes,
            reversed: false,
            filter: String::new(),
            period: CountingPeriod::SinceStart,
        };
        Screen { view, offset: 0, typing: None }
    }

    fn press(screen: &mut Screen, keys: &str) -> Vec<KeyAction> {
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
        assert_eq!((screen.view.sort, screen.view.reversed), (TopColumn::Packets, false));
        press(&mut screen, "p");
        assert!(screen.view.reversed, "the same key turns it");
        press(&mut screen, "/10.x\u{8}q");
        assert_eq!(screen.typing.as_deref(), Some("10.q"), "q is a letter here");
        press(&mut screen, "\u{8}\n");
        assert_eq!((screen.view.filter.as_str(), screen.typing.is_none()), ("10.", true));
        press(&mut screen, "\u{1b}d");
        assert_eq!((screen.view.filter.as_str(), screen.view.period), ("", CountingPeriod::PerSecond));
        assert_eq!(press(&mut screen, " q"), [KeyAction::Refresh, KeyAction::Quit]);
        assert_eq!(screen.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), KeyAction::Quit);
    }
}
