//! The agent's own metrics, kept by the `prometheus` crate: few, and of one label at most (the
//! crate takes two series for one when two labels joined read the same).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use crate::{
    outputs::{jsonl_file::Bounds, worker::Counters},
    util::disk::FileLimits,
};

/// Bounds of the poll histogram in seconds.
const POLL_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// What became of the last attempt to load the configuration, or the lists of internal networks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// It is in force since this time, in seconds since 1970.
    Good(f64),
    /// It was refused; the one before stays in force.
    Refused,
}

/// Numbers of a sink that posts to a receiver over HTTP. Clones share them.
#[derive(Clone, Debug)]
pub struct ReceiverCounters {
    /// Answers that refuse a single event.
    pub refusals: IntCounter,
    /// Alerts that the receiver refused when they were posted last.
    pub refused: IntGauge,
    /// Events added to the dead letters.
    pub dead_lettered: IntCounter,
    /// Events among the dead letters.
    pub dead_letters: IntGauge,
    /// By how much the receiver's clock is ahead of this machine's, in seconds.
    pub clock_offset: Gauge,
}

/// The agent's own metrics.
#[derive(Debug)]
pub struct Agent {
    registry: Registry,
    polls: Histogram,
    poll_failures: IntCounter,
    config_good: IntGauge,
    config_time: Gauge,
    lists_good: IntGauge,
    lists_time: Gauge,
    internal: IntGauge,
    state_durable: IntGaugeVec,
    state_bytes: IntGaugeVec,
    state_failures: IntCounterVec,
    written: IntCounterVec,
    dropped: IntCounterVec,
    errors: IntCounterVec,
    waiting: IntGaugeVec,
    files_replaced: IntCounterVec,
    waits_for_room: IntGaugeVec,
    refusals: IntCounterVec,
    refused: IntGaugeVec,
    dead_lettered: IntCounterVec,
    dead_letters: IntGaugeVec,
    clock_offset: GaugeVec,
}

impl Agent {
    /// The metrics of an agent of this version that started `started` seconds after 1970.
    ///
    /// # Errors
    /// A definition below contradicts itself or another one.
    pub fn new(version: &str, started: f64) -> Result<Self, Error> {
        let registry = Registry::new();
        let info =
            GaugeVec::new(Opts::new("mailflow_build_info", "The running agent's version."), &["version"])?;
        info.with_label_values(&[version]).set(1.0);
        add(&registry, info)?;
        let start = Gauge::new("process_start_time_seconds", "Start of the process in seconds since 1970.")?;
        start.set(started);
        add(&registry, start)?;
        let polls = HistogramOpts::new(
            "mailflow_poll_duration_seconds",
            "Time one poll took, from reading to sinks.",
        );
        Ok(Self {
            polls: add(&registry, Histogram::with_opts(polls.buckets(POLL_BUCKETS.to_vec()))?)?,
            poll_failures: add(
                &registry,
                IntCounter::new(
                    "mailflow_poll_failures_total",
                    "Polls that could not read the kernel's tables.",
                )?,
            )?,
            config_good: add(
                &registry,
                IntGauge::new(
                    "mailflow_config_last_reload_successful",
                    "Whether the last attempt to load the configuration succeeded.",
                )?,
            )?,
            config_time: add(
                &registry,
                Gauge::new(
                    "mailflow_config_last_reload_success_timestamp_seconds",
                    "Since when the configuration is in force, in seconds since 1970.",
                )?,
            )?,
            lists_good: add(
                &registry,
                IntGauge::new(
                    "mailflow_lists_last_reload_successful",
                    "Whether the last attempt to read the lists of internal networks succeeded.",
                )?,
            )?,
            lists_time: add(
                &registry,
                Gauge::new(
                    "mailflow_lists_last_reload_success_timestamp_seconds",
                    "Since when the lists of internal networks are in force, in seconds since 1970.",
                )?,
            )?,
            internal: add(
                &registry,
                IntGauge::new("mailflow_listed_networks", "Lines of the internal networks in force.")?,
            )?,
            // Without labels, and absent where no state is kept.
            state_durable: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new("mailflow_state_durable", "Whether the state on the disk is written."),
                    &[],
                )?,
            )?,
            state_bytes: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new("mailflow_state_bytes", "Bytes of state, journal and history on the disk."),
                    &[],
                )?,
            )?,
            state_failures: add(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "mailflow_state_write_failures_total",
                        "Failed attempts to write the state, the journal or the history.",
                    ),
                    &[],
                )?,
            )?,
            written: counters(
                &registry,
                "mailflow_sink_lines_written_total",
                "Lines or events delivered, by sink.",
            )?,
            dropped: counters(
                &registry,
                "mailflow_sink_lines_dropped_total",
                "Lines or events lost, by sink: its queue was full, or the other side refuses them.",
            )?,
            errors: counters(
                &registry,
                "mailflow_sink_errors_total",
                "Failed attempts to deliver, by sink; what failed is tried again.",
            )?,
            waiting: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_sink_queue_lines",
                        "Lines or events taken and not yet delivered, by sink.",
                    ),
                    &["sink"],
                )?,
            )?,
            files_replaced: counters(
                &registry,
                "mailflow_sink_files_replaced_total",
                "Files that reached their greatest size and were renamed, by sink.",
            )?,
            waits_for_room: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_sink_waits_for_room",
                        "Whether lines wait because a part of the disk must stay free, by sink.",
                    ),
                    &["sink"],
                )?,
            )?,
            refusals: counters(
                &registry,
                "mailflow_sink_refusals_total",
                "Answers of a receiver that refuse a single event, by sink.",
            )?,
            refused: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_sink_refused_alerts",
                        "Alerts that an Alertmanager refused when they were posted last; they are posted again, by sink.",
                    ),
                    &["sink"],
                )?,
            )?,
            dead_lettered: counters(
                &registry,
                "mailflow_sink_dead_lettered_total",
                "Events added to the dead letters, by sink: the receiver refuses them for good.",
            )?,
            dead_letters: add(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_sink_dead_letters",
                        "Events in the files of dead letters, by sink; 0 once the files are emptied or removed.",
                    ),
                    &["sink"],
                )?,
            )?,
            clock_offset: add(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "mailflow_receiver_clock_offset_seconds",
                        "By how much a receiver's clock is ahead of this machine's, by the Date of its answers; 0 where they agree.",
                    ),
                    &["sink"],
                )?,
            )?,
            registry,
        })
    }

    /// Books a poll and how long it took.
    pub fn polled(&self, took: Duration) {
        self.polls.observe(took.as_secs_f64());
    }

    /// Books a poll that failed.
    pub fn poll_failed(&self) {
        self.poll_failures.inc();
    }

    /// Books an attempt to load the configuration.
    pub fn config_loaded(&self, load: Load) {
        match load {
            Load::Good(time) => {
                self.config_good.set(1);
                self.config_time.set(time);
            }
            Load::Refused => self.config_good.set(0),
        }
    }

    /// Books an attempt to read the lists of internal networks.
    pub fn lists_loaded(&self, load: Load) {
        match load {
            Load::Good(time) => {
                self.lists_good.set(1);
                self.lists_time.set(time);
            }
            Load::Refused => self.lists_good.set(0),
        }
    }

    /// Returns the number of lines of the internal networks in force.
    pub fn networks_listed(&self) -> u64 {
        u64::try_from(self.internal.get()).unwrap_or_default()
    }

    /// Books how many lines the internal networks in force have.
    pub fn listed_networks(&self, lines: usize) {
        self.internal.set(i64::try_from(lines).unwrap_or(i64::MAX));
    }

    /// Books how the state on the disk is: whether it is written, its size, and all failures to write it so far.
    pub fn state_kept(&self, durable: bool, bytes: u64, failures: u64) {
        self.state_durable.with_label_values::<&str>(&[]).set(i64::from(durable));
        self.state_bytes.with_label_values::<&str>(&[]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let counter = self.state_failures.with_label_values::<&str>(&[]);
        counter.inc_by(failures.saturating_sub(counter.get()));
    }

    /// The counters of the sink of this name; the same ones for the same name.
    pub fn sink_counters(&self, sink: &str) -> Counters {
        Counters {
            written: self.written.with_label_values(&[sink]),
            dropped: self.dropped.with_label_values(&[sink]),
            errors: self.errors.with_label_values(&[sink]),
            waiting: self.waiting.with_label_values(&[sink]),
            abandoned: Arc::default(),
        }
    }

    /// Shows the sink of this name no more.
    pub fn forget_sink(&self, sink: &str) {
        // A series that was never counted is not there either.
        for family in [
            &self.written,
            &self.dropped,
            &self.errors,
            &self.refusals,
            &self.dead_lettered,
            &self.files_replaced,
        ] {
            let _ = family.remove_label_values(&[sink]);
        }
        for family in [&self.waiting, &self.refused, &self.dead_letters, &self.waits_for_room] {
            let _ = family.remove_label_values(&[sink]);
        }
        let _ = self.clock_offset.remove_label_values(&[sink]);
    }

    /// The bounds of the file of the sink of this name, with its numbers.
    pub fn file_bounds(&self, sink: &str, limits: FileLimits) -> Bounds {
        Bounds {
            limits,
            replaced: self.files_replaced.with_label_values(&[sink]),
            waits: self.waits_for_room.with_label_values(&[sink]),
        }
    }

    /// The numbers of the sink of this name that posts to a receiver; the same ones for the same name.
    pub fn receiver_counters(&self, sink: &str) -> ReceiverCounters {
        ReceiverCounters {
            refusals: self.refusals.with_label_values(&[sink]),
            refused: self.refused.with_label_values(&[sink]),
            dead_lettered: self.dead_lettered.with_label_values(&[sink]),
            dead_letters: self.dead_letters.with_label_values(&[sink]),
            clock_offset: self.clock_offset.with_label_values(&[sink]),
        }
    }

    /// What became of each sink's events: the numbers by their names on the page, without what all share
    /// (`mailflow_sink_`, `_total`), by sink.
    pub fn sinks(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut sinks: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for family in self.registry.gather() {
            let Some(name) = family.name().strip_prefix("mailflow_sink_") else { continue };
            let name = name.strip_suffix("_total").unwrap_or(name);
            for metric in family.get_metric() {
                let Some(sink) = metric.get_label().iter().find(|label| label.name() == "sink") else {
                    continue;
                };
                let value = metric.get_counter().get_value() + metric.get_gauge().get_value();
                sinks
                    .entry(sink.value().to_owned())
                    .or_default()
                    .insert(name.to_owned(), value.max(0.0) as u64);
            }
        }
        sinks
    }

    /// Returns true if the last attempt to load the configuration succeeded.
    pub fn config_good(&self) -> bool {
        self.config_good.get() == 1
    }

    pub(crate) fn render(&self, out: &mut String) -> Result<(), Error> {
        TextEncoder::new().encode_utf8(&self.registry.gather(), out)
    }
}

fn counters(registry: &Registry, name: &str, help: &str) -> Result<IntCounterVec, Error> {
    add(registry, IntCounterVec::new(Opts::new(name, help), &["sink"])?)
}

/// Registers a metric; its clones share its numbers.
fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
