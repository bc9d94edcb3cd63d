//! Metrics of the agent itself, kept by the `prometheus` crate. They are few and have at most one label: the
//! crate confuses two series whose joined labels are equal.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

use crate::{
    outputs::{jsonl_file::FileBounds, worker::SinkCounters},
    util::disk::FileLimits,
};

/// Bucket bounds of the poll histogram, in seconds.
const POLL_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// Result of the last attempt to load the configuration, or the lists of internal networks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LoadOutcome {
    /// Successful load, with its time in seconds since 1970.
    Loaded(f64),
    /// Refused load: the previous one stays in force.
    Refused,
}

/// Counters of a sink that posts to a receiver over HTTP. Clones share the values.
#[derive(Clone, Debug)]
pub struct ReceiverCounters {
    /// Responses that refuse a single event.
    pub refusals: IntCounter,
    /// Alerts refused at the last attempt.
    pub refused: IntGauge,
    /// Events added to the dead letters.
    pub dead_lettered: IntCounter,
    /// Events in the dead letters.
    pub dead_letters: IntGauge,
    /// Offset of the receiver's clock from the local clock, in seconds.
    pub clock_offset: Gauge,
}

/// Metrics of the agent itself.
#[derive(Debug)]
pub struct AgentMetrics {
    registry: Registry,
    polls: Histogram,
    poll_failures: IntCounter,
    is_config_current: IntGauge,
    config_loaded_at: Gauge,
    is_lists_current: IntGauge,
    lists_loaded_at: Gauge,
    network_lines: IntGauge,
    state_durable: IntGaugeVec,
    state_bytes: IntGaugeVec,
    state_failures: IntCounterVec,
    written: IntCounterVec,
    dropped: IntCounterVec,
    errors: IntCounterVec,
    waiting: IntGaugeVec,
    files_replaced: IntCounterVec,
    waiting_for_space: IntGaugeVec,
    refusals: IntCounterVec,
    refused: IntGaugeVec,
    dead_lettered: IntCounterVec,
    dead_letters: IntGaugeVec,
    clock_offset: GaugeVec,
}

impl AgentMetrics {
    /// Creates the metrics of an agent of this version that started `start_time` seconds after 1970.
    ///
    /// # Errors
    /// Two definitions below contradict each other, or one is invalid.
    pub fn new(version: &str, start_time: f64) -> Result<Self, Error> {
        let registry = Registry::new();
        let info =
            GaugeVec::new(Opts::new("mailflow_build_info", "Version of the running agent."), &["version"])?;
        info.with_label_values(&[version]).set(1.0);
        register(&registry, info)?;
        let start =
            Gauge::new("process_start_time_seconds", "Start time of the process, in seconds since 1970.")?;
        start.set(start_time);
        register(&registry, start)?;
        let polls = HistogramOpts::new(
            "mailflow_poll_duration_seconds",
            "Duration of a poll, from reading the flow table to queueing at the sinks.",
        );
        Ok(Self {
            polls: register(&registry, Histogram::with_opts(polls.buckets(POLL_BUCKETS.to_vec()))?)?,
            poll_failures: register(
                &registry,
                IntCounter::new(
                    "mailflow_poll_failures_total",
                    "Number of polls that failed to read the kernel's tables.",
                )?,
            )?,
            is_config_current: register(
                &registry,
                IntGauge::new(
                    "mailflow_config_last_reload_successful",
                    "1 if the last attempt to load the configuration succeeded, else 0.",
                )?,
            )?,
            config_loaded_at: register(
                &registry,
                Gauge::new(
                    "mailflow_config_last_reload_success_timestamp_seconds",
                    "Time of the last successful load of the configuration, in seconds since 1970.",
                )?,
            )?,
            is_lists_current: register(
                &registry,
                IntGauge::new(
                    "mailflow_network_lists_last_reload_successful",
                    "1 if the last attempt to read the lists of internal networks succeeded, else 0.",
                )?,
            )?,
            lists_loaded_at: register(
                &registry,
                Gauge::new(
                    "mailflow_network_lists_last_reload_success_timestamp_seconds",
                    "Time of the last successful read of the lists of internal networks, in seconds since \
                     1970.",
                )?,
            )?,
            network_lines: register(
                &registry,
                IntGauge::new(
                    "mailflow_network_list_entries",
                    "Number of lines of the internal networks in force.",
                )?,
            )?,
            // Vectors without labels: the metrics are absent if the agent keeps no state.
            state_durable: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("mailflow_state_durable", "1 if the state on disk is written, else 0."),
                    &[],
                )?,
            )?,
            state_bytes: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_state_bytes",
                        "Size of the state, the journal and the history on disk.",
                    ),
                    &[],
                )?,
            )?,
            state_failures: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "mailflow_state_write_failures_total",
                        "Number of failed writes of the state, the journal or the history.",
                    ),
                    &[],
                )?,
            )?,
            written: register_sink_counter(
                &registry,
                "mailflow_output_lines_written_total",
                "Number of delivered lines or events, by sink.",
            )?,
            dropped: register_sink_counter(
                &registry,
                "mailflow_output_lines_dropped_total",
                "Number of lost lines or events, by sink: the queue was full, or the receiver refuses them.",
            )?,
            errors: register_sink_counter(
                &registry,
                "mailflow_output_errors_total",
                "Number of failed delivery attempts, by sink. They are retried.",
            )?,
            waiting: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("mailflow_output_queue_lines", "Number of queued lines or events, by sink."),
                    &["output"],
                )?,
            )?,
            files_replaced: register_sink_counter(
                &registry,
                "mailflow_output_files_replaced_total",
                "Number of files renamed at their maximum size, by sink.",
            )?,
            waiting_for_space: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_output_waiting_for_disk",
                        "1 while lines wait because a part of the disk must stay free, by sink.",
                    ),
                    &["output"],
                )?,
            )?,
            refusals: register_sink_counter(
                &registry,
                "mailflow_output_rejections_total",
                "Number of responses that refuse a single event, by sink.",
            )?,
            refused: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_output_rejected_alerts",
                        "Number of alerts that an Alertmanager refused at the last attempt, by sink. They \
                         are posted again.",
                    ),
                    &["output"],
                )?,
            )?,
            dead_lettered: register_sink_counter(
                &registry,
                "mailflow_output_dead_letters_written_total",
                "Number of events added to the dead letters, by sink: the receiver refuses them permanently.",
            )?,
            dead_letters: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "mailflow_output_dead_letters",
                        "Number of events in the files of dead letters, by sink. 0 after the files are \
                         emptied or removed.",
                    ),
                    &["output"],
                )?,
            )?,
            clock_offset: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "mailflow_receiver_clock_offset_seconds",
                        "Offset of a receiver's clock from the local clock, by the Date of its responses, \
                         by sink. 0 if they agree.",
                    ),
                    &["output"],
                )?,
            )?,
            registry,
        })
    }

    /// Adds a poll and its duration.
    pub fn observe_poll(&self, duration: Duration) {
        self.polls.observe(duration.as_secs_f64());
    }

    /// Counts a failed poll.
    pub fn count_poll_failure(&self) {
        self.poll_failures.inc();
    }

    /// Records an attempt to load the configuration.
    pub fn record_config_load(&self, load: LoadOutcome) {
        match load {
            LoadOutcome::Loaded(time) => {
                self.is_config_current.set(1);
                self.config_loaded_at.set(time);
            }
            LoadOutcome::Refused => self.is_config_current.set(0),
        }
    }

    /// Records an attempt to read the lists of internal networks.
    pub fn record_lists_load(&self, load: LoadOutcome) {
        match load {
            LoadOutcome::Loaded(time) => {
                self.is_lists_current.set(1);
                self.lists_loaded_at.set(time);
            }
            LoadOutcome::Refused => self.is_lists_current.set(0),
        }
    }

    /// Returns the number of lines of the internal networks in force.
    pub fn network_lines(&self) -> u64 {
        u64::try_from(self.network_lines.get()).unwrap_or_default()
    }

    /// Sets the number of lines of the internal networks in force.
    pub fn set_network_lines(&self, lines: usize) {
        self.network_lines.set(i64::try_from(lines).unwrap_or(i64::MAX));
    }

    /// Sets durability, size and number of failed writes of the state on disk.
    pub fn record_state_usage(&self, durable: bool, bytes: u64, failures: u64) {
        self.state_durable.with_label_values::<&str>(&[]).set(i64::from(durable));
        self.state_bytes.with_label_values::<&str>(&[]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let counter = self.state_failures.with_label_values::<&str>(&[]);
        counter.inc_by(failures.saturating_sub(counter.get()));
    }

    /// Returns the counters of a sink. Calls with the same name share them.
    pub fn sink_counters(&self, sink: &str) -> SinkCounters {
        SinkCounters {
            written: self.written.with_label_values(&[sink]),
            dropped: self.dropped.with_label_values(&[sink]),
            errors: self.errors.with_label_values(&[sink]),
            waiting: self.waiting.with_label_values(&[sink]),
            abandoned: Arc::default(),
        }
    }

    /// Removes the metrics of a sink.
    pub fn remove_sink(&self, sink: &str) {
        // A metric without a value for the sink is no error.
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
        for family in [&self.waiting, &self.refused, &self.dead_letters, &self.waiting_for_space] {
            let _ = family.remove_label_values(&[sink]);
        }
        let _ = self.clock_offset.remove_label_values(&[sink]);
    }

    /// Returns the limits of a sink's file, with its metrics.
    pub fn file_bounds(&self, sink: &str, limits: FileLimits) -> FileBounds {
        FileBounds {
            limits,
            files_replaced: self.files_replaced.with_label_values(&[sink]),
            waiting_for_space: self.waiting_for_space.with_label_values(&[sink]),
        }
    }

    /// Returns the counters of a sink that posts to a receiver. Calls with the same name share them.
    pub fn receiver_counters(&self, sink: &str) -> ReceiverCounters {
        ReceiverCounters {
            refusals: self.refusals.with_label_values(&[sink]),
            refused: self.refused.with_label_values(&[sink]),
            dead_lettered: self.dead_lettered.with_label_values(&[sink]),
            dead_letters: self.dead_letters.with_label_values(&[sink]),
            clock_offset: self.clock_offset.with_label_values(&[sink]),
        }
    }

    /// Returns the metrics of each sink by name, without the prefix `mailflow_output_` and the suffix `_total`.
    pub fn sinks(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut sinks: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for family in self.registry.gather() {
            let Some(name) = family.name().strip_prefix("mailflow_output_") else { continue };
            let name = name.strip_suffix("_total").unwrap_or(name);
            for metric in family.get_metric() {
                let Some(sink) = metric.get_label().iter().find(|label| label.name() == "output") else {
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
    pub fn is_config_current(&self) -> bool {
        self.is_config_current.get() == 1
    }

    /// Writes the families.
    pub(crate) fn render(&self, out: &mut String) -> Result<(), Error> {
        TextEncoder::new().encode_utf8(&self.registry.gather(), out)
    }
}

/// Registers a counter with the label `sink`.
fn register_sink_counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounterVec, Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), &["output"])?)
}

/// Registers a metric. Its clones share the values.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
