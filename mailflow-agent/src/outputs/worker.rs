//! Bounded queue and thread of each sink. Adding an item never blocks, even if the target is slow, full or
//! unreachable.

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

use crate::util::error_chain::{self, LogRateLimit};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Pause before the first retry. Each further failure doubles it.
const FIRST_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Interval of checks for space in the queue.
const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Transport of a sink, used by its thread only.
pub trait Transport<T>: Send + 'static {
    /// Accepts an item, which the transport owns until it is delivered or lost.
    fn accept(&mut self, item: T) -> Acceptance;

    /// Returns true if the transport accepts more items before the next delivery.
    fn can_accept(&self) -> bool;

    /// Delivers the accepted items, and counts delivered and lost items in `counters`.
    ///
    /// # Errors
    /// The rest cannot be delivered now. The caller tries again later.
    fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()>;

    /// Returns true if there is nothing to deliver.
    fn is_empty(&self) -> bool;

    /// Removes and returns the undelivered items, as far as possible.
    fn take_undelivered(&mut self) -> Vec<T> {
        Vec::new()
    }

    /// Returns the time until the next delivery without a new item.
    fn due(&self) -> Option<Duration> {
        None
    }

    /// Returns the pause that the receiver requested with the last failure.
    fn requested_pause(&self) -> Option<Duration> {
        None
    }

    /// Returns the longest pause between two attempts.
    fn max_pause(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// Result of handing an item to a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// Item that waits for delivery.
    Queued,
    /// Item dropped because the transport is full or the item cannot be formatted.
    Dropped,
}

/// Failure to start the thread of a sink.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread for the sink {name}: {source}")]
pub struct SpawnError {
    /// Name of the sink.
    pub name: String,
    /// Reason of the system.
    pub source: io::Error,
}

/// Number of accepted items that were not delivered when the sink was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} lines were not delivered")]
pub struct Undelivered(pub u64);

/// Counters of one sink. Clones share the values.
#[derive(Clone, Debug)]
pub struct SinkCounters {
    /// Delivered items.
    pub written: IntCounter,
    /// Lost items: the queue was full, or the receiver refuses them.
    pub dropped: IntCounter,
    /// Failed attempts to deliver. The items wait for the next attempt.
    pub errors: IntCounter,
    /// Accepted items that are neither delivered nor lost.
    pub waiting: IntGauge,
    /// True once counting has stopped: another sink of the name has the remaining items.
    pub abandoned: Arc<AtomicBool>,
}

impl SinkCounters {
    /// Counts items as delivered.
    pub fn count_delivered(&self, items: usize) {
        if self.abandoned.load(Ordering::Relaxed) {
            return;
        }
        self.written.inc_by(items as u64);
        self.waiting.sub(items as i64);
    }

    /// Counts items as lost.
    pub fn count_lost(&self, items: usize) {
        if self.abandoned.load(Ordering::Relaxed) {
            return;
        }
        self.dropped.inc_by(items as u64);
        self.waiting.sub(items as i64);
    }
}

/// Sink with its queue and its thread.
#[derive(Debug)]
pub struct SinkWorker<T> {
    name: String,
    queue: Option<SyncSender<T>>,
    closing: Arc<AtomicBool>,
    failing: Arc<AtomicBool>,
    /// Channel that is disconnected when the thread ends.
    done: Receiver<()>,
    thread: Thread,
    counters: SinkCounters,
    /// Queue that receives the remaining items at the end.
    successor: Successor<T>,
}

/// Queue of the sink that takes over the remaining items of another one.
type Successor<T> = Arc<Mutex<Option<SyncSender<T>>>>;

impl<T: Send + 'static> SinkWorker<T> {
    /// Starts the thread. At most `queue` items (at least one) wait in addition to those of the transport.
    /// Further items are dropped and counted.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        name: &str,
        queue: usize,
        counters: SinkCounters,
        transport: impl Transport<T>,
    ) -> Result<Self, SpawnError> {
        let (queue, items) = sync_channel(queue.max(1));
        let (finished, done) = sync_channel(0);
        let (closing, failing) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let successor = Successor::<T>::default();
        let worker = WorkerThread {
            name: name.to_owned(),
            transport,
            items,
            counters: counters.clone(),
            closing: Arc::clone(&closing),
            failing: Arc::clone(&failing),
            successor: Arc::clone(&successor),
        };
        let handle = thread::Builder::new()
            .name("sink".into())
            .spawn(move || {
                mailflow_kernel::capabilities::drop_all();
                worker.run();
                drop(finished);
            })
            .map_err(|source| SpawnError { name: name.to_owned(), source })?;
        let (name, thread) = (name.to_owned(), handle.thread().clone());
        Ok(Self { name, queue: Some(queue), closing, failing, done, thread, counters, successor })
    }

    /// Adds an item. Never blocks: if the queue is full the item is dropped and counted.
    pub fn push(&self, item: T) {
        self.counters.waiting.inc();
        if self.queue.as_ref().is_none_or(|queue| queue.try_send(item).is_err()) {
            self.counters.count_lost(1);
        }
    }

    /// Adds an item, and blocks while the queue of a slow sink is full. The item is dropped if the sink
    /// fails.
    pub fn push_blocking(&self, mut item: T) {
        self.counters.waiting.inc();
        let Some(queue) = &self.queue else { return self.counters.count_lost(1) };
        loop {
            match queue.try_send(item) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) if !self.failing.load(Ordering::Relaxed) => item = back,
                Err(_) => return self.counters.count_lost(1),
            }
            thread::sleep(QUEUE_POLL_INTERVAL);
        }
    }

    /// Returns the name, which is the label of the counters.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of items that are neither delivered nor lost.
    pub fn waiting(&self) -> u64 {
        u64::try_from(self.counters.waiting.get()).unwrap_or(0)
    }

    /// Returns the counters.
    pub fn counters(&self) -> &SinkCounters {
        &self.counters
    }

    /// Delivers the waiting items for at most `grace`, without retries.
    ///
    /// # Errors
    /// Some items were not delivered.
    pub fn close(mut self, grace: Duration) -> Result<(), Undelivered> {
        self.finish(grace)
    }

    /// Delivers the waiting items for at most `grace`, without retries. The counters stay readable.
    ///
    /// # Errors
    /// Some items were not delivered.
    pub fn finish(&mut self, grace: Duration) -> Result<(), Undelivered> {
        self.close_queue();
        // The gauge has the remaining items, no matter if the thread has ended or the time is over.
        let _ = self.done.recv_timeout(grace);
        match self.waiting() {
            0 => Ok(()),
            remaining => Err(Undelivered(remaining)),
        }
    }

    /// Stops counting, and returns the number of undelivered items. They count neither as lost nor as
    /// waiting: another sink has them, or they are discarded.
    pub fn abandon(&self) -> u64 {
        let waiting = self.waiting();
        self.counters.abandoned.store(true, Ordering::Relaxed);
        self.counters.waiting.sub(i64::try_from(waiting).unwrap_or(i64::MAX));
        waiting
    }

    /// Passes undelivered items to another sink of the same name, which shares the counters.
    pub fn set_successor(&self, successor: &Self) {
        *self.successor.lock().unwrap_or_else(PoisonError::into_inner) = successor.queue.clone();
    }

    /// Closes the queue. The thread delivers the waiting items and ends.
    pub fn close_queue(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        self.thread.unpark();
    }
}

impl<T> Drop for SinkWorker<T> {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        self.thread.unpark();
    }
}

/// Thread of a sink.
struct WorkerThread<T, W> {
    name: String,
    transport: W,
    items: Receiver<T>,
    counters: SinkCounters,
    closing: Arc<AtomicBool>,
    failing: Arc<AtomicBool>,
    successor: Successor<T>,
}

/// State of a sink whose deliveries fail.
#[derive(Clone, Copy)]
struct RetryState {
    pause: Duration,
    /// End of the pause, `None` after an attempt without error.
    retry_at: Option<Time>,
    /// Number of delivered items before the failure.
    written: u64,
}

impl<T, W: Transport<T>> WorkerThread<T, W> {
    /// Delivers until the queue is closed, and everything is delivered or a delivery fails. The remaining
    /// items go to the successor, if there is one.
    fn run(mut self) {
        self.deliver_until_closed();
        let successor = self.successor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(successor) = successor else { return };
        let remaining = self.transport.take_undelivered();
        for item in remaining.into_iter().chain(self.items.try_iter()) {
            if successor.try_send(item).is_err() {
                self.counters.count_lost(1);
            }
        }
    }

    /// Delivers items until the queue is closed and nothing remains, or a final delivery fails.
    fn deliver_until_closed(&mut self) {
        let mut failing: Option<RetryState> = None;
        // For example a disk that fills up repeatedly.
        let mut log_limit = LogRateLimit::default();
        let mut logged_failure = false;
        loop {
            let wait = match failing.and_then(|failing| failing.retry_at) {
                Some(retry_at) => Some(retry_at.since(clock::now())),
                None => self.transport.due(),
            };
            let open = self.receive(wait);
            let closing = self.closing.load(Ordering::Acquire);
            let pausing = |retry_at| !closing && clock::now() < retry_at;
            if failing.and_then(|failing| failing.retry_at).is_some_and(pausing) {
                continue;
            }
            match self.transport.deliver(&self.counters) {
                Ok(()) => {
                    failing = failing.and_then(|failing| self.confirm_recovery(failing, &mut logged_failure))
                }
                Err(error) => {
                    self.counters.errors.inc();
                    self.failing.store(true, Ordering::Relaxed);
                    if failing.is_none() && log_limit.may_log(clock::now()) {
                        logged_failure = true;
                        let error = error_chain::format_error_chain(&error);
                        tracing::error!(sink = self.name, error, "a sink cannot deliver; retrying");
                    }
                    if closing {
                        return;
                    }
                    let pause = failing.map_or(FIRST_RETRY_PAUSE, |failing| failing.pause * 2);
                    let pause = pause.min(self.transport.max_pause());
                    let retry_at = clock::now() + self.transport.requested_pause().unwrap_or(pause);
                    let written =
                        failing.map_or_else(|| self.counters.written.get(), |failing| failing.written);
                    failing = Some(RetryState { pause, retry_at: Some(retry_at), written });
                }
            }
            if !open {
                if self.transport.is_empty() {
                    return;
                }
                // The delivery of the last items must be checked again.
                thread::park_timeout(self.transport.due().unwrap_or(QUEUE_POLL_INTERVAL));
            }
        }
    }

    /// Handles a delivery without error after failures. The sink has recovered once an item is delivered.
    fn confirm_recovery(&self, failing: RetryState, logged_failure: &mut bool) -> Option<RetryState> {
        if self.counters.written.get() == failing.written && !self.transport.is_empty() {
            return Some(RetryState { retry_at: None, ..failing });
        }
        self.failing.store(false, Ordering::Relaxed);
        if std::mem::take(logged_failure) {
            tracing::info!(sink = self.name, "the sink delivers again");
        }
        None
    }

    /// Takes items from the queue, and waits for the first for at most `wait`. Returns false if the queue is
    /// closed.
    fn receive(&mut self, wait: Option<Duration>) -> bool {
        if !self.transport.can_accept() {
            // Closing the sink unparks the thread.
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
            Ok(item) => self.accept(item),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while self.transport.can_accept() {
            match self.items.try_recv() {
                Ok(item) => self.accept(item),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// Passes an item to the transport, and counts a dropped one.
    fn accept(&mut self, item: T) {
        if self.transport.accept(item) == Acceptance::Dropped {
            self.counters.count_lost(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::metrics::AgentMetrics;

    /// Transport that fails, then accepts items without confirming them, then delivers.
    #[derive(Default)]
    struct SlowToConfirm {
        accepted: usize,
        calls: usize,
        log: Arc<Mutex<Vec<u8>>>,
    }

    impl Transport<()> for SlowToConfirm {
        fn accept(&mut self, (): ()) -> Acceptance {
            self.accepted += 1;
            Acceptance::Queued
        }

        fn can_accept(&self) -> bool {
            true
        }

        fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
            self.calls += 1;
            match self.calls {
                1 => anyhow::bail!("refused"),
                2..=4 => {
                    let log = String::from_utf8(self.log.lock().unwrap().clone()).unwrap();
                    assert!(log.contains("cannot deliver") && !log.contains("delivers again"), "{log}");
                }
                _ => counters.count_delivered(std::mem::take(&mut self.accepted)),
            }
            Ok(())
        }

        fn is_empty(&self) -> bool {
            self.accepted == 0
        }

        fn due(&self) -> Option<Duration> {
            (self.accepted > 0).then_some(QUEUE_POLL_INTERVAL)
        }

        fn max_pause(&self) -> Duration {
            QUEUE_POLL_INTERVAL
        }
    }

    /// Captured log.
    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl io::Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn logs_recovery_once_an_item_is_delivered() {
        let log = CapturedLog::default();
        let transport = SlowToConfirm { log: Arc::clone(&log.0), ..SlowToConfirm::default() };
        let counters = AgentMetrics::new("0", 0.0).unwrap().sink_counters("test");
        let (queue, items) = sync_channel(1);
        queue.send(()).unwrap();
        counters.waiting.inc();
        let worker = WorkerThread {
            name: "test".to_owned(),
            transport,
            items,
            counters: counters.clone(),
            closing: Arc::default(),
            failing: Arc::default(),
            successor: Successor::default(),
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
    fn passes_undelivered_items_to_the_successor() {
        /// Transport that delivers nothing.
        struct Dead(Vec<u32>);

        impl Transport<u32> for Dead {
            fn accept(&mut self, item: u32) -> Acceptance {
                self.0.push(item);
                Acceptance::Queued
            }

            fn can_accept(&self) -> bool {
                self.0.len() < 3
            }

            fn deliver(&mut self, _: &SinkCounters) -> anyhow::Result<()> {
                anyhow::bail!("dead")
            }

            fn is_empty(&self) -> bool {
                false
            }

            fn take_undelivered(&mut self) -> Vec<u32> {
                std::mem::take(&mut self.0)
            }
        }

        /// Transport that records its items.
        struct Alive(Arc<Mutex<Vec<u32>>>);

        impl Transport<u32> for Alive {
            fn accept(&mut self, item: u32) -> Acceptance {
                self.0.lock().unwrap().push(item);
                Acceptance::Queued
            }

            fn can_accept(&self) -> bool {
                true
            }

            fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
                counters.count_delivered(self.0.lock().unwrap().len() - counters.written.get() as usize);
                Ok(())
            }

            fn is_empty(&self) -> bool {
                true
            }
        }

        let agent = AgentMetrics::new("0", 0.0).unwrap();
        let mut old = SinkWorker::start("test", 100, agent.sink_counters("test"), Dead(Vec::new())).unwrap();
        (0..50).for_each(|item| old.push(item));
        let received = Arc::<Mutex<Vec<u32>>>::default();
        let successor =
            SinkWorker::start("test", 100, agent.sink_counters("test"), Alive(Arc::clone(&received)))
                .unwrap();
        old.set_successor(&successor);
        old.close_queue();
        let deadline = clock::now() + Duration::from_secs(30);
        while successor.counters().written.get() < 50 {
            assert!(clock::now() < deadline, "{:?}", received.lock().unwrap());
            thread::sleep(QUEUE_POLL_INTERVAL);
        }
        assert_eq!(*received.lock().unwrap(), (0..50).collect::<Vec<_>>(), "in their order");
        assert_eq!((successor.counters().dropped.get(), successor.waiting()), (0, 0));
    }
}
