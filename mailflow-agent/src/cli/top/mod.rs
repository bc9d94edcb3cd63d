//! `top`: table of the sources of the running agent.

mod screen;
mod table;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use self::table::{CountingPeriod, TableView};
use super::{args::TopArgs, client::report_failure, command::ExitStatus};
use crate::{
    control::{Client, Reply, Request, TopSnapshot},
    util::terminal::Terminal,
};

/// Shows the table: live on a terminal, otherwise once.
pub fn run(socket: &Path, args: &TopArgs, err: &mut impl Write) -> io::Result<ExitStatus> {
    let view = TableView {
        sort: args.sort,
        reversed: false,
        filter: args.filter.clone().unwrap_or_default(),
        period: CountingPeriod::SinceStart,
    };
    let mut client = match Client::connect(socket) {
        Ok(client) => client,
        Err(error) => return report_failure(Err(error), err),
    };
    let mut fetch = || match client.call(&Request::Top) {
        Ok(Reply::Top(top)) => Ok(top),
        other => Err(other),
    };
    let stdout = io::stdout();
    let ended = if args.once || !stdout.is_terminal() || !io::stdin().is_terminal() {
        match fetch() {
            Ok(top) => {
                print_once(&view, &top, args.rows, &mut Terminal(stdout.lock()))?;
                return Ok(ExitStatus::Good);
            }
            Err(other) => other,
        }
    } else {
        match screen::run(view, args.interval, &mut fetch)? {
            screen::ExitReason::Quit => return Ok(ExitStatus::Good),
            screen::ExitReason::NoTable(other) => *other,
        }
    };
    report_failure(ended, err)
}

fn print_once(view: &TableView, top: &TopSnapshot, rows: usize, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", view.header())?;
    for row in view.rows(top, None).iter().take(rows) {
        writeln!(out, "{}", view.line(row))?;
    }
    Ok(())
}
