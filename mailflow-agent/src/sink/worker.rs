//! A bounded queue and a thread for each sink: however slow, full or dead what it writes to is, whoever
//! hands over an item never waits.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::{self, Thread},
    time::Duration,
};

use prometheus::{IntCounter, IntGauge};

use crate::{clock, engine::time::Time, fault};

/// Pause before the first try after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks whether there is room again.
const ROOM: Duration = Duration::from_millis(1);

/// What a sink writes to, used by its thread alone.
pub trait Transport<T>: Send + 'static {
    /// Takes an item over; it is the transport's until it is booked as delivered or refused.
    fn take(&mut self, item: T) -> Taken;

    /// Whether it takes more before it has delivered what it has.
    fn has_room(&self) -> bool;

    /// Delivers what it has. What is delivered, or refused for good, is booked in `counters`.
    ///
    /// # Errors
    /// What keeps it from delivering the rest, which it is asked for again later.
    fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()>;

    /// Whether there is something to deliver.
    fn is_empty(&self) -> bool;

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
}

impl Counters {
    /// Books items as delivered.
    pub fn delivered(&self, items: usize) {
        self.written.inc_by(items as u64);
        self.waiting.sub(items as i64);
    }

    /// Books items as lost.
    pub fn lost(&self, items: usize) {
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
}

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
        let worker = Worker {
            name: name.to_owned(),
            transport,
            items,
            counters: counters.clone(),
            closing: Arc::clone(&closing),
            failing: Arc::clone(&failing),
        };
        let handle = thread::Builder::new()
            .name("sink".into())
            .spawn(move || {
                crate::privileges::give_up_all();
                worker.run();
                drop(finished);
            })
            .map_err(|source| NoThread { name: name.to_owned(), source })?;
        let (name, thread) = (name.to_owned(), handle.thread().clone());
        Ok(Self { name, queue: Some(queue), closing, failing, done, thread, counters })
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

    /// Counts what waits as lost: nobody delivers it any more.
    pub fn give_up(&self) {
        self.counters.lost(usize::try_from(self.waiting()).unwrap_or(0));
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
}

/// Deliveries fail since some time.
#[derive(Clone, Copy)]
struct Failing {
    pause: Duration,
    until: Time,
}

impl<T, W: Transport<T>> Worker<T, W> {
    /// Delivers until the queue is closed and everything delivered, or closed and failing.
    fn run(mut self) {
        let mut failing: Option<Failing> = None;
        loop {
            let wait = match failing {
                Some(failing) => Some(failing.until.since(clock::now())),
                None => self.transport.due(),
            };
            let open = self.receive(wait);
            let closing = self.closing.load(Ordering::Acquire);
            if failing.is_some_and(|failing| !closing && clock::now() < failing.until) {
                continue;
            }
            match self.transport.deliver(&self.counters) {
                Ok(()) => {
                    if failing.take().is_some() {
                        self.failing.store(false, Ordering::Relaxed);
                        tracing::info!(sink = self.name, "the sink delivers again");
                    }
                }
                Err(error) => {
                    self.counters.errors.inc();
                    self.failing.store(true, Ordering::Relaxed);
                    if failing.is_none() {
                        let error = fault::told(&error);
                        tracing::error!(sink = self.name, error, "a sink cannot deliver; it goes on trying");
                    }
                    if closing {
                        return;
                    }
                    let pause = failing.map_or(FIRST_PAUSE, |failing| failing.pause * 2);
                    let pause = pause.min(self.transport.longest_pause());
                    let until = clock::now() + self.transport.asked_pause().unwrap_or(pause);
                    failing = Some(Failing { pause, until });
                }
            }
            if !open && self.transport.is_empty() {
                return;
            }
        }
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
