//! A bounded queue and a thread for each sink: however slow, full or dead what it writes to is, whoever
//! hands over an item never waits.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::{self, Thread},
    time::Duration,
};

use prometheus::{IntCounter, IntGauge};

use crate::util::error_chain::{self, Limited};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Pause before the first try after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks whether there is room again.
const ROOM: Duration = Duration::from_millis(1);

/// What a sink writes to, used by its thread alone.
pub trait Transport<T>: Send + 'static {
    /// Takes an item over; it is the transport's until it is booked as delivered or refused.
    fn take(&mut self, item: T) -> Taken;

    /// Returns true if it takes more before it has delivered what it has.
    fn has_room(&self) -> bool;

    /// Delivers what it has. What is delivered, or refused for good, is booked in `counters`.
    ///
    /// # Errors
    /// What keeps it from delivering the rest, which it is asked for again later.
    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()>;

    /// Returns true if there is something to deliver.
    fn is_empty(&self) -> bool;

    /// Gives back what it has not delivered, as far as it can.
    fn take_back(&mut self) -> Vec<T> {
        Vec::new()
    }

    /// In what time it wants to deliver although nothing came.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// The pause that the other side asked for when the last delivery failed, if it did.
    fn asked_pause(&self) -> Option<Duration> {
        None
    }

    /// The longest pause between two tries.
    fn longest_pause(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// What became of an item that was handed to a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It waits to be delivered.
    Kept,
    /// There is no room for it, or it cannot be written.
    Dropped,
}

/// No thread could be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread for the sink {name}: {source}")]
pub struct NoThread {
    /// The sink.
    pub name: String,
    /// The system's reason.
    pub source: io::Error,
}

/// What a sink had taken but not written when it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} lines were not written")]
pub struct Unwritten(pub u64);

/// What became of one sink's items. Clones share their numbers.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Delivered.
    pub written: IntCounter,
    /// Lost: the queue was full, or the other side refuses them.
    pub dropped: IntCounter,
    /// Failed attempts to deliver; the items wait and are tried again.
    pub errors: IntCounter,
    /// Taken and neither delivered nor lost.
    pub waiting: IntGauge,
    /// Set once nothing is booked any more: another sink of the name has what was left.
    pub abandoned: Arc<AtomicBool>,
}

impl Counters {
    /// Books items as delivered.
    pub fn delivered(&self, items: usize) {
        if self.abandoned.load(Ordering::Relaxed) {
            return;
        }
        self.written.inc_by(items as u64);
        self.waiting.sub(items as i64);
    }

    /// Books items as lost.
    pub fn lost(&self, items: usize) {
        if self.abandoned.load(Ordering::Relaxed) {
            return;
        }
        self.dropped.inc_by(items as u64);
        self.waiting.sub(items as i64);
    }
}

/// The queue's end at which items are handed over.
#[derive(Debug)]
pub struct Sink<T> {
    name: String,
    queue: Option<SyncSender<T>>,
    closing: Arc<AtomicBool>,
    failing: Arc<AtomicBool>,
    /// Disconnected once the thread is done.
    done: Receiver<()>,
    thread: Thread,
    counters: Counters,
    /// Who gets what is left at the end.
    heir: Heir<T>,
}

/// The queue of the sink that gets what another one leaves.
type Heir<T> = Arc<Mutex<Option<SyncSender<T>>>>;

impl<T: Send + 'static> Sink<T> {
    /// Starts the thread. At most `queue` items wait (at least one) beside those that the transport has;
    /// further ones are dropped and counted.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        name: &str,
        queue: usize,
        counters: Counters,
        transport: impl Transport<T>,
    ) -> Result<Self, NoThread> {
        let (queue, items) = sync_channel(queue.max(1));
        let (finished, done) = sync_channel(0);
        let (closing, failing) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let heir = Heir::<T>::default();
        let worker = Worker {
            name: name.to_owned(),
            transport,
            items,
            counters: counters.clone(),
            closing: Arc::clone(&closing),
            failing: Arc::clone(&failing),
            heir: Arc::clone(&heir),
        };
        let handle = thread::Builder::new()
            .name("sink".into())
            .spawn(move || {
                mailflow_kernel::capabilities::drop_all();
                worker.run();
                drop(finished);
            })
            .map_err(|source| NoThread { name: name.to_owned(), source })?;
        let (name, thread) = (name.to_owned(), handle.thread().clone());
        Ok(Self { name, queue: Some(queue), closing, failing, done, thread, counters, heir })
    }

    /// Hands over one item. Never waits: one for which there is no room is dropped and counted.
    pub fn push(&self, item: T) {
        self.counters.waiting.inc();
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(item).is_err()) {
            self.counters.lost(1);
        }
    }

    /// Hands over one item, and waits where there is no room for it: for a sink that is slow, not for one
    /// that fails.
    pub fn push_waiting(&self, mut item: T) {
        self.counters.waiting.inc();
        let Some(queue) = &self.queue else { return self.counters.lost(1) };
        loop {
            match queue.try_send(item) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) if !self.failing.load(Ordering::Relaxed) => item = back,
                Err(_) => return self.counters.lost(1),
            }
            thread::sleep(ROOM);
        }
    }

    /// Its name, by which its counters are told from other sinks'.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Items that were handed over, and are neither delivered nor lost.
    pub fn waiting(&self) -> u64 {
        u64::try_from(self.counters.waiting.get()).unwrap_or(0)
    }

    /// What became of the items.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Delivers what waits, for at most `grace`. What fails now is not tried again.
    ///
    /// # Errors
    /// How many items were taken but not delivered.
    pub fn close(mut self, grace: Duration) -> Result<(), Unwritten> {
        self.finish(grace)
    }

    /// The same, with its numbers still to be read.
    ///
    /// # Errors
    /// As above.
    pub fn finish(&mut self, grace: Duration) -> Result<(), Unwritten> {
        self.hang_up();
        // Either the thread is done, or the grace is over; the gauge knows what is left.
        let _ = self.done.recv_timeout(grace);
        match self.waiting() {
            0 => Ok(()),
            left => Err(Unwritten(left)),
        }
    }

    /// Books nothing from now on, and returns how many items were not delivered. They count neither as lost nor
    /// as waiting: another sink has them, or this one is not wanted any more.
    pub fn abandon(&self) -> u64 {
        let waiting = self.waiting();
        self.counters.abandoned.store(true, Ordering::Relaxed);
        self.counters.waiting.sub(i64::try_from(waiting).unwrap_or(i64::MAX));
        waiting
    }

    /// Leaves what cannot be delivered to another sink of the same name, which shares the numbers.
    pub fn bequeath(&self, heir: &Self) {
        *self.heir.lock().unwrap_or_else(PoisonError::into_inner) = heir.queue.clone();
    }

    /// Tells the thread that nothing comes any more, so that it delivers what waits and ends.
    pub fn hang_up(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        self.thread.unpark();
    }
}

impl<T> Drop for Sink<T> {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        self.thread.unpark();
    }
}

/// The thread's side.
struct Worker<T, W> {
    name: String,
    transport: W,
    items: Receiver<T>,
    counters: Counters,
    closing: Arc<AtomicBool>,
    failing: Arc<AtomicBool>,
    heir: Heir<T>,
}

/// Deliveries fail since some time.
#[derive(Clone, Copy)]
struct Failing {
    pause: Duration,
    /// The end of the pause; none once the transport works on what it has.
    until: Option<Time>,
    /// What was delivered before.
    written: u64,
}

impl<T, W: Transport<T>> Worker<T, W> {
    /// Delivers until the queue is closed and everything delivered, or closed and failing. What is left then goes
    /// to the heir, if there is one.
    fn run(mut self) {
        self.work();
        let heir = self.heir.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(heir) = heir else { return };
        let left = self.transport.take_back();
        for item in left.into_iter().chain(self.items.try_iter()) {
            if heir.try_send(item).is_err() {
                self.counters.lost(1);
            }
        }
    }

    fn work(&mut self) {
        let mut failing: Option<Failing> = None;
        // A disk that fills up again and again, say.
        let mut lines = Limited::default();
        let mut said = false;
        loop {
            let wait = match failing.and_then(|failing| failing.until) {
                Some(until) => Some(until.since(clock::now())),
                None => self.transport.due(),
            };
            let open = self.receive(wait);
            let closing = self.closing.load(Ordering::Acquire);
            let pausing = |until| !closing && clock::now() < until;
            if failing.and_then(|failing| failing.until).is_some_and(pausing) {
                continue;
            }
            match self.transport.deliver(&self.counters) {
                Ok(()) => failing = failing.and_then(|failing| self.works(failing, &mut said)),
                Err(error) => {
                    self.counters.errors.inc();
                    self.failing.store(true, Ordering::Relaxed);
                    if failing.is_none() && lines.may_say(clock::now()) {
                        said = true;
                        let error = error_chain::told(&error);
                        tracing::error!(sink = self.name, error, "a sink cannot deliver; it goes on trying");
                    }
                    if closing {
                        return;
                    }
                    let pause = failing.map_or(FIRST_PAUSE, |failing| failing.pause * 2);
                    let pause = pause.min(self.transport.longest_pause());
                    let until = clock::now() + self.transport.asked_pause().unwrap_or(pause);
                    let written =
                        failing.map_or_else(|| self.counters.written.get(), |failing| failing.written);
                    failing = Some(Failing { pause, until: Some(until), written });
                }
            }
            if !open {
                if self.transport.is_empty() {
                    return;
                }
                // What was sent last is looked at again.
                thread::park_timeout(self.transport.due().unwrap_or(ROOM));
            }
        }
    }

    /// A delivery has not failed, after others did. That the sink works is known once something arrived.
    fn works(&self, failing: Failing, said: &mut bool) -> Option<Failing> {
        if self.counters.written.get() == failing.written && !self.transport.is_empty() {
            return Some(Failing { until: None, ..failing });
        }
        self.failing.store(false, Ordering::Relaxed);
        if std::mem::take(said) {
            tracing::info!(sink = self.name, "the sink delivers again");
        }
        None
    }

    /// Takes what is in the queue, and waits for something to come; at most for `wait`. Says whether
    /// something may still come.
    fn receive(&mut self, wait: Option<Duration>) -> bool {
        if !self.transport.has_room() {
            // A sink that is closed meanwhile wakes it.
            if let Some(wait) = wait {
                thread::park_timeout(wait);
            }
            return true;
        }
        let first = match wait {
            None => self.items.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => self.items.recv_timeout(wait),
        };
        match first {
            Ok(item) => self.take(item),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while self.transport.has_room() {
            match self.items.try_recv() {
                Ok(item) => self.take(item),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn take(&mut self, item: T) {
        if self.transport.take(item) == Taken::Dropped {
            self.counters.lost(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::metrics::Agent;

    /// Fails, then takes what it has without saying that it arrived, then delivers.
    #[derive(Default)]
    struct SlowToConfirm {
        has: usize,
        calls: usize,
        log: Arc<Mutex<Vec<u8>>>,
    }

    impl Transport<()> for SlowToConfirm {
        fn take(&mut self, (): ()) -> Taken {
            self.has += 1;
            Taken::Kept
        }

        fn has_room(&self) -> bool {
            true
        }

        fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
            self.calls += 1;
            match self.calls {
                1 => anyhow::bail!("refused"),
                2..=4 => {
                    let log = String::from_utf8(self.log.lock().unwrap().clone()).unwrap();
                    assert!(log.contains("cannot deliver") && !log.contains("delivers again"), "{log}");
                }
                _ => counters.delivered(std::mem::take(&mut self.has)),
            }
            Ok(())
        }

        fn is_empty(&self) -> bool {
            self.has == 0
        }

        fn due(&self) -> Option<Duration> {
            (self.has > 0).then_some(ROOM)
        }

        fn longest_pause(&self) -> Duration {
            ROOM
        }
    }

    /// What is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_failed_delivers_again_once_something_arrived() {
        let log = Log::default();
        let transport = SlowToConfirm { log: Arc::clone(&log.0), ..SlowToConfirm::default() };
        let counters = Agent::new("0", 0.0).unwrap().sink_counters("test");
        let (queue, items) = sync_channel(1);
        queue.send(()).unwrap();
        counters.waiting.inc();
        let worker = Worker {
            name: "test".to_owned(),
            transport,
            items,
            counters: counters.clone(),
            closing: Arc::default(),
            failing: Arc::default(),
            heir: Heir::default(),
        };
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let closer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            drop(queue);
        });
        tracing::subscriber::with_default(subscriber, || worker.run());
        closer.join().unwrap();
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("delivers again").count(), 1, "{text}");
        assert_eq!((counters.written.get(), counters.waiting.get()), (1, 0));
    }

    #[test]
    fn what_a_sink_leaves_goes_to_its_heir() {
        /// Delivers nothing.
        struct Dead(Vec<u32>);

        impl Transport<u32> for Dead {
            fn take(&mut self, item: u32) -> Taken {
                self.0.push(item);
                Taken::Kept
            }

            fn has_room(&self) -> bool {
                self.0.len() < 3
            }

            fn deliver(&mut self, _: &Counters) -> anyhow::Result<()> {
                anyhow::bail!("dead")
            }

            fn is_empty(&self) -> bool {
                false
            }

            fn take_back(&mut self) -> Vec<u32> {
                std::mem::take(&mut self.0)
            }
        }

        /// Keeps what it gets.
        struct Alive(Arc<Mutex<Vec<u32>>>);

        impl Transport<u32> for Alive {
            fn take(&mut self, item: u32) -> Taken {
                self.0.lock().unwrap().push(item);
                Taken::Kept
            }

            fn has_room(&self) -> bool {
                true
            }

            fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
                counters.delivered(self.0.lock().unwrap().len() - counters.written.get() as usize);
                Ok(())
            }

            fn is_empty(&self) -> bool {
                true
            }
        }

        let agent = Agent::new("0", 0.0).unwrap();
        let mut old = Sink::start("test", 100, agent.sink_counters("test"), Dead(Vec::new())).unwrap();
        (0..50).for_each(|item| old.push(item));
        let got = Arc::<Mutex<Vec<u32>>>::default();
        let heir = Sink::start("test", 100, agent.sink_counters("test"), Alive(Arc::clone(&got))).unwrap();
        old.bequeath(&heir);
        old.hang_up();
        let patience = clock::now() + Duration::from_secs(30);
        while heir.counters().written.get() < 50 {
            assert!(clock::now() < patience, "{:?}", got.lock().unwrap());
            thread::sleep(ROOM);
        }
        assert_eq!(*got.lock().unwrap(), (0..50).collect::<Vec<_>>(), "in their order");
        assert_eq!((heir.counters().dropped.get(), heir.waiting()), (0, 0));
    }
}
