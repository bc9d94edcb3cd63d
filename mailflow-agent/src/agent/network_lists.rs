//! NetworkLists of internal networks, reloaded by a thread when a file changes.
//!
//! A list may be long, wrong in every line, or on a file system that does not answer. The poll loop takes
//! finished lists, and never waits for one.

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
    config::{Diagnostic, Diagnostics, NetworkLists},
    metrics::LoadOutcome,
    status::shared_status::SharedStatus,
};
use mailflow_engine::{network::Networks, time::Time};
use mailflow_kernel::capabilities;
use mailflow_kernel::clock;

/// Time between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which the thread is started again if that failed.
const THREAD_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Result of a read: the networks and warnings, or faults.
type ListReading = Result<(Networks, Vec<Diagnostic>), Diagnostics>;

/// Watcher of the files of internal networks.
pub(crate) struct ListWatch {
    state: ListWatchState,
}

enum ListWatchState {
    /// The thread is not started yet.
    Waiting { lists: Box<NetworkLists>, internal: Networks, next: Time },
    /// The thread runs until `_alive` is dropped.
    Reading { finished: Receiver<Networks>, _alive: Arc<()> },
}

impl ListWatch {
    /// Creates a watcher for lists that were read as `internal`.
    pub(crate) fn new(lists: NetworkLists, internal: &Networks) -> Self {
        let state =
            ListWatchState::Waiting { lists: Box::new(lists), internal: internal.clone(), next: Time::ZERO };
        Self { state }
    }

    /// Returns new networks, if any. If the files are wrong, the previous networks stay in force. Their
    /// faults are logged once, and shown in the status until the files are valid.
    pub(crate) fn poll(&mut self, now: Time, view: &Arc<SharedStatus>) -> Option<Networks> {
        match &mut self.state {
            // Without files there is nothing to watch.
            ListWatchState::Waiting { lists, .. } if lists.files().next().is_none() => None,
            ListWatchState::Waiting { next, .. } if now < *next => None,
            ListWatchState::Waiting { lists, internal, next } => {
                let (view, internal) = (Arc::clone(view), internal.clone());
                match start_reader(read_when_changed((**lists).clone()), internal, view) {
                    Ok(state) => self.state = state,
                    Err(error) => {
                        *next = now + THREAD_RETRY_INTERVAL;
                        error!(%error, "failed to start a thread for the lists of internal networks; they stay as they are; retrying in 60 s");
                    }
                }
                None
            }
            ListWatchState::Reading { finished, .. } => finished.try_iter().last(),
        }
    }
}

/// Starts a thread that publishes the results of `next`, until the returned state is dropped.
fn start_reader(
    mut next: impl FnMut() -> Option<ListReading> + Send + 'static,
    mut internal: Networks,
    view: Arc<SharedStatus>,
) -> io::Result<ListWatchState> {
    let alive = Arc::new(());
    let in_force: Weak<()> = Arc::downgrade(&alive);
    let (publish, finished) = sync_channel(1);
    thread::Builder::new().name("lists".into()).spawn(move || {
        capabilities::drop_all();
        while in_force.strong_count() > 0 {
            match next() {
                // A reload may have replaced the lists during the read.
                Some(reading) if in_force.strong_count() > 0 => {
                    publish_reading(reading, &mut internal, &publish, &view);
                }
                Some(_) => {}
                None => thread::sleep(CHECK_INTERVAL),
            }
        }
    })?;
    Ok(ListWatchState::Reading { finished, _alive: alive })
}

/// Reads `lists` after a change, once their files are stable.
fn read_when_changed(mut lists: NetworkLists) -> impl FnMut() -> Option<ListReading> + Send + 'static {
    move || {
        if !lists.take_settled_change() {
            return None;
        }
        let reading = lists.reload();
        if lists.is_outdated() {
            debug!("a list of internal networks was written to while it was read; it is read again");
            return None;
        }
        Some(reading)
    }
}

fn publish_reading(
    reading: ListReading,
    internal: &mut Networks,
    publish: &SyncSender<Networks>,
    view: &SharedStatus,
) {
    match reading {
        Ok((networks, warnings)) => {
            warnings.iter().for_each(|warning| warn!("{warning}"));
            log_changes(internal, &networks);
            internal.clone_from(&networks);
            view.lists_in_force(networks.networks().len());
            // The receiver is gone if a reload replaced the lists.
            let _ = publish.send(networks);
        }
        Err(faults) => {
            faults.iter().for_each(|fault| error!("{fault}"));
            error!(
                faults = faults.count(),
                "the changed files of internal networks are refused; the previous list stays in force"
            );
            view.lists_refused(&faults);
        }
    }
}

fn log_changes(previous: &Networks, now: &Networks) {
    let groups = now.groups();
    for removed in previous.groups().difference(&groups) {
        warn!(group = removed, "no internal network has this group any more");
    }
    info!(
        networks = now.networks().len(),
        before = previous.networks().len(),
        "internal networks read again"
    );
}

impl SharedStatus {
    /// Shows lists with this number of networks as in force.
    pub(crate) fn lists_in_force(&self, networks: usize) {
        self.agent.record_lists_load(LoadOutcome::Loaded(clock::unix_seconds()));
        self.agent.set_network_lines(networks);
        self.snapshot().lists_refused.clear();
    }

    /// Shows the changed files as refused.
    fn lists_refused(&self, faults: &Diagnostics) {
        self.agent.record_lists_load(LoadOutcome::Refused);
        let first = faults.iter().next().map(ToString::to_string).unwrap_or_default();
        self.snapshot().lists_refused = match faults.count() {
            0 | 1 => first,
            count => format!("{first} (the first of {count} faults)"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc::channel, time::Duration};

    use super::*;
    use crate::{config, control::StatusProvider as _};

    /// Far longer than anything here takes.
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn view() -> Arc<SharedStatus> {
        Arc::new(SharedStatus::new(&config::parse("f", "{}").unwrap(), None, 0.0).unwrap())
    }

    fn networks(text: &str) -> Networks {
        config::parse("f", &format!("internal_networks: {{ networks: [{text}] }}")).unwrap().engine.internal
    }

    /// Polls until there is a result.
    fn wait<T>(mut check: impl FnMut() -> Option<T>) -> T {
        let started = clock::now();
        loop {
            if let Some(found) = check() {
                return found;
            }
            assert!(clock::now().since(started) < TIMEOUT, "nothing came");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The read below never ends by itself, as that of a file on a server that does not answer.
    #[test]
    fn the_poll_loop_does_not_wait_for_a_list() {
        let (release, released) = channel::<Networks>();
        let next = move || Some(Ok((released.recv().ok()?, Vec::new())));
        let view = view();
        let state = start_reader(next, networks("10.0.0.0/8"), Arc::clone(&view)).unwrap();
        let mut watch = ListWatch { state };
        for second in 0..100 {
            assert!(watch.poll(Time::ZERO + Duration::from_secs(second), &view).is_none());
        }
        release.send(networks("10.0.0.0/8, 192.168.0.0/16")).unwrap();
        let found = wait(|| watch.poll(Time::ZERO, &view));
        assert_eq!(found.networks().len(), 2);
    }

    #[test]
    fn faults_of_a_list_are_shown_until_it_is_valid() {
        let directory = std::env::temp_dir().join(format!("mailflow-lists-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let list = directory.join("a.csv");
        fs::write(&list, "cidr,role\n10.0.0.0/8,mta\n").unwrap();
        let text = format!("internal_networks: {{ files: [{}] }}", list.display());
        let config = config::parse("f", &text).unwrap();
        let view = view();
        let mut watch = ListWatch::new(config.lists.clone(), &config.engine.internal);
        assert!(watch.poll(Time::ZERO, &view).is_none());
        assert_eq!(view.status().lists.unwrap().refused, None);

        fs::write(&list, format!("cidr,role\n{}", "10.0.0.1/8,mtaa\n".repeat(100_000))).unwrap();
        let refused = wait(|| {
            assert!(watch.poll(Time::ZERO, &view).is_none());
            view.status().lists.unwrap().refused
        });
        assert!(refused.contains("a.csv:2:1: \"10.0.0.1/8\": host bits set"), "{refused}");
        assert!(refused.ends_with("(the first of 200000 faults)"), "{refused}");

        fs::write(&list, "cidr,role\n10.0.0.0/8,mta\n192.168.0.0/16,\n").unwrap();
        let found = wait(|| watch.poll(Time::ZERO, &view));
        assert_eq!(found.networks().len(), 2);
        let lists = view.status().lists.unwrap();
        assert_eq!((lists.networks, lists.refused), (2, None));
        fs::remove_dir_all(&directory).unwrap();
    }
}
