//! Accepted messages by Postfix's log.

use std::collections::{BTreeMap, HashMap, HashSet};

/// Returns the accepted messages of each connection, by the client's address and port, in the order of the
/// connections; `None` while a connection is open.
///
/// A message is accepted once the queue manager has it: `smtpd` logs its id and client, and `qmgr` logs the
/// id as active.
pub(super) fn sessions(log: &str) -> Option<BTreeMap<(String, u16), Vec<u64>>> {
    let queued: HashSet<&str> = log
        .lines()
        .filter(|line| line.contains("/qmgr[") && line.contains("(queue active)"))
        .filter_map(|line| line.split("]: ").nth(1)?.split(':').next())
        .collect();
    let mut sessions: BTreeMap<(String, u16), Vec<u64>> = BTreeMap::new();
    // A connection belongs to one process, which has one connection at a time.
    let mut open: HashMap<&str, (String, u16)> = HashMap::new();
    for line in log.lines().filter(|line| line.contains("/smtpd[")) {
        let (process, message) = line.split_once("/smtpd[")?.1.split_once("]: ")?;
        if let Some(client) = message.strip_prefix("connect from ").map(client) {
            // The lab reads the greeting from the server's own namespace.
            if let Some(client) = client.filter(|(address, _)| address != "127.0.0.1") {
                sessions.entry(client.clone()).or_default().push(0);
                open.insert(process, client);
            }
        } else if message.starts_with("disconnect from ") {
            open.remove(process);
        } else if let (Some((id, _)), Some(client)) = (message.split_once(": client="), open.get(process))
            && queued.contains(id)
            && let Some(accepted) = sessions.get_mut(client).and_then(|sessions| sessions.last_mut())
        {
            *accepted += 1;
        }
    }
    open.is_empty().then_some(sessions)
}

/// Parses `unknown[10.20.0.2]:40000` with anything after it.
fn client(text: &str) -> Option<(String, u16)> {
    let (_, rest) = text.split_once('[')?;
    let (address, rest) = rest.split_once("]:")?;
    let port = rest.split(|byte: char| !byte.is_ascii_digit()).next()?;
    Some((address.to_owned(), port.parse().ok()?))
}
