//! The lists of internal networks, read again when a file changes, by a thread of their own.
//!
//! A list may be long, wrong from its first line to its last, or on a file system that does not answer: the poll
//! loop takes a list that is finished, and never waits for one.

use std::{
    io,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::{debug, error, info, warn};

use crate::{
    config::{Fault, Faults, Lists},
    metrics::Load,
    status::shared_status::View,
};
use mailflow_engine::{assets::Networks, time::Time};
use mailflow_kernel::capabilities;
use mailflow_kernel::clock;

/// Time between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a thread that could not be started is tried again.
const THREAD_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// A reading of the lists: the networks with what is odd about them, or what is wrong.
type Reading = Result<(Networks, Vec<Fault>), Faults>;

/// Follows the files of networks.
pub(crate) struct ListWatch {
    state: State,
}

enum State {
    /// The thread is not started yet.
    Waiting { lists: Box<Lists>, internal: Networks, next: Time },
    /// The thread reads. It ends once `_alive` is gone.
    Reading { finished: Receiver<Networks>, _alive: Arc<()> },
}

impl ListWatch {
    /// For lists that were read as `internal`.
    pub(crate) fn new(lists: Lists, internal: &Networks) -> Self {
        let state = State::Waiting { lists: Box::new(lists), internal: internal.clone(), next: Time::ZERO };
        Self { state }
    }

    /// Returns the networks that come into force at `now`, if any. Files that are wrong leave those before in
    /// force; what is wrong with them is logged once, and shown until they are good.
    pub(crate) fn look(&mut self, now: Time, view: &Arc<View>) -> Option<Networks> {
        match &mut self.state {
            // Nothing to follow.
            State::Waiting { lists, .. } if lists.files().next().is_none() => None,
            State::Waiting { next, .. } if now < *next => None,
            State::Waiting { lists, internal, next } => {
                let (view, internal) = (Arc::clone(view), internal.clone());
                match start(files((**lists).clone()), internal, view) {
                    Ok(state) => self.state = state,
                    Err(error) => {
                        *next = now + THREAD_RETRY_INTERVAL;
                        error!(%error, "no thread to read the lists of internal networks; they stay as they are; retrying in 60 s");
                    }
                }
                None
            }
            State::Reading { finished, .. } => finished.try_iter().last(),
        }
    }
}

/// Starts a thread that publishes what `next` reads, for as long as the returned state lives.
fn start(
    mut next: impl FnMut() -> Option<Reading> + Send + 'static,
    mut internal: Networks,
    view: Arc<View>,
) -> io::Result<State> {
    let alive = Arc::new(());
    let in_force: Weak<()> = Arc::downgrade(&alive);
    let (publish, finished) = sync_channel(1);
    thread::Builder::new().name("lists".into()).spawn(move || {
        capabilities::drop_all();
        while in_force.strong_count() > 0 {
            match next() {
                // Other lists may have come into force while these were read.
                Some(reading) if in_force.strong_count() > 0 => {
                    take(reading, &mut internal, &publish, &view);
                }
                Some(_) => {}
                None => thread::sleep(INTERVAL),
            }
        }
    })?;
    Ok(State::Reading { finished, _alive: alive })
}

/// Reads `lists` once they have changed and kept still.
fn files(mut lists: Lists) -> impl FnMut() -> Option<Reading> + Send + 'static {
    move || {
        if !lists.changed() {
            return None;
        }
        let reading = lists.read_again();
        if lists.moved() {
            debug!("a list of internal networks was written to while it was read; it is read again");
            return None;
        }
        Some(reading)
    }
}

fn take(reading: Reading, internal: &mut Networks, publish: &SyncSender<Networks>, view: &View) {
    match reading {
        Ok((networks, warnings)) => {
            warnings.iter().for_each(|warning| warn!("{warning}"));
            compare(internal, &networks);
            internal.clone_from(&networks);
            view.lists_in_force(networks.networks().len());
            // Without a receiver other lists are in force.
            let _ = publish.send(networks);
        }
        Err(faults) => {
            faults.iter().for_each(|fault| error!("{fault}"));
            error!(
                faults = faults.count(),
                "the files of internal networks have changed and are refused; the list before stays"
            );
            view.lists_refused(&faults);
        }
    }
}

fn compare(before: &Networks, now: &Networks) {
    let groups = now.groups();
    for gone in before.groups().difference(&groups) {
        warn!(group = gone, "no internal network is of this group any more");
    }
    info!(networks = now.networks().len(), before = before.networks().len(), "internal networks read again");
}

impl View {
    /// Shows that lists of so many networks are in force.
    pub(crate) fn lists_in_force(&self, networks: usize) {
        self.agent.lists_loaded(Load::Good(clock::unix_seconds()));
        self.agent.listed_networks(networks);
        self.numbers().lists_refused.clear();
    }

    /// Shows that the files have changed and are refused.
    fn lists_refused(&self, faults: &Faults) {
        self.agent.lists_loaded(Load::Refused);
        let first = faults.iter().next().map(ToString::to_string).unwrap_or_default();
        self.numbers().lists_refused = match faults.count() {
            0 | 1 => first,
            count => format!("{first} (the first of {count} faults)"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc::channel, time::Duration};

    use super::*;
    use crate::{config, control::State as _};

    /// Far more than any of this takes.
    const LIMIT: Duration = Duration::from_secs(60);

    fn view() -> Arc<View> {
        Arc::new(View::new(&config::parse("f", "{}").unwrap(), None, 0.0).unwrap())
    }

    fn networks(text: &str) -> Networks {
        config::parse("f", &format!("internal_networks: {{ networks: [{text}] }}")).unwrap().engine.internal
    }

    /// Looks as a poll loop does until something comes.
    fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let begin = clock::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(clock::now().since(begin) < LIMIT, "nothing came");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The reading below never ends by itself, as that of a file on a server that is gone.
    #[test]
    fn the_poll_loop_does_not_wait_for_a_list() {
        let (release, released) = channel::<Networks>();
        let next = move || Some(Ok((released.recv().ok()?, Vec::new())));
        let view = view();
        let state = start(next, networks("10.0.0.0/8"), Arc::clone(&view)).unwrap();
        let mut watch = ListWatch { state };
        for second in 0..100 {
            assert!(watch.look(Time::ZERO + Duration::from_secs(second), &view).is_none());
        }
        release.send(networks("10.0.0.0/8, 192.168.0.0/16")).unwrap();
        let found = wait(|| watch.look(Time::ZERO, &view));
        assert_eq!(found.networks().len(), 2);
    }

    #[test]
    fn a_bad_list_is_shown_until_it_is_good() {
        let directory = std::env::temp_dir().join(format!("mailflow-lists-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let list = directory.join("a.csv");
        fs::write(&list, "cidr,role\n10.0.0.0/8,mta\n").unwrap();
        let text = format!("internal_networks: {{ files: [{}] }}", list.display());
        let config = config::parse("f", &text).unwrap();
        let view = view();
        let mut watch = ListWatch::new(config.lists.clone(), &config.engine.internal);
        assert!(watch.look(Time::ZERO, &view).is_none());
        assert_eq!(view.status().lists.unwrap().refused, None);

        fs::write(&list, format!("cidr,role\n{}", "10.0.0.1/8,mtaa\n".repeat(100_000))).unwrap();
        let refused = wait(|| {
            assert!(watch.look(Time::ZERO, &view).is_none());
            view.status().lists.unwrap().refused
        });
        assert!(refused.contains("a.csv:2:1: \"10.0.0.1/8\": host bits set"), "{refused}");
        assert!(refused.ends_with("(the first of 200000 faults)"), "{refused}");

        fs::write(&list, "cidr,role\n10.0.0.0/8,mta\n192.168.0.0/16,\n").unwrap();
        let found = wait(|| watch.look(Time::ZERO, &view));
        assert_eq!(found.networks().len(), 2);
        let lists = view.status().lists.unwrap();
        assert_eq!((lists.networks, lists.refused), (2, None));
        fs::remove_dir_all(&directory).unwrap();
    }
}
