//! `top`: what the running agent's sources send.

mod screen;
mod table;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use self::table::{Look, Span};
use super::{args::TopArgs, client::unexpected, command::Exit};
use crate::{
    control::{Client, Reply, Request, Top},
    util::terminal::Terminal,
};

/// Shows the table: live on a terminal, once otherwise.
pub fn run(socket: &Path, args: &TopArgs, err: &mut impl Write) -> io::Result<Exit> {
    let look = Look {
        sort: args.sort,
        reversed: false,
        filter: args.filter.clone().unwrap_or_default(),
        span: Span::Start,
    };
    let mut client = match Client::connect(socket) {
        Ok(client) => client,
        Err(error) => return unexpected(Err(error), err),
    };
    let mut ask = || match client.call(&Request::Top) {
        Ok(Reply::Top(top)) => Ok(top),
        other => Err(other),
    };
    let stdout = io::stdout();
    let ended = if args.once || !stdout.is_terminal() || !io::stdin().is_terminal() {
        match ask() {
            Ok(top) => {
                once(&look, &top, args.rows, &mut Terminal(stdout.lock()))?;
                return Ok(Exit::Good);
            }
            Err(other) => other,
        }
    } else {
        match screen::run(look, args.interval, &mut ask)? {
            screen::End::Asked => return Ok(Exit::Good),
            screen::End::Unanswered(other) => *other,
        }
    };
    unexpected(ended, err)
}

fn once(look: &Look, top: &Top, rows: usize, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", look.head())?;
    for row in look.rows(top, None).iter().take(rows) {
        writeln!(out, "{}", look.line(row))?;
    }
    Ok(())
}
