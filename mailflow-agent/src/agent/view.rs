//! What the metrics port shows of the agent.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;

use crate::{
    config::Config,
    engine::event::WindowValue,
    http,
    sink::metrics::{Agent, KernelView, Ledger, Limits, Load, Page},
};

/// Shared by the pipeline, which writes it, and the metrics port, which reads it.
pub(super) struct View {
    /// The agent's own metrics.
    pub(super) agent: Agent,
    numbers: Mutex<Numbers>,
    ready: AtomicBool,
}

/// What changes with each poll.
pub(super) struct Numbers {
    pub(super) ledger: Ledger,
    pub(super) windows: Vec<WindowValue>,
    pub(super) kernel: Option<KernelView>,
}

impl View {
    pub(super) fn new(config: &Config, started: f64) -> Result<Self> {
        let agent = Agent::new(env!("CARGO_PKG_VERSION"), started)?;
        agent.config_loaded(Load::Good(started));
        agent.lists_loaded(Load::Good(started));
        agent.listed_networks(config.engine.internal.networks().len());
        let limits = Limits { sources: config.outputs.max_sources, ..Limits::default() };
        let rules = config.engine.rules.iter().map(|rule| rule.name.clone());
        let numbers = Numbers { ledger: Ledger::new(limits, rules), windows: Vec::new(), kernel: None };
        Ok(Self { agent, numbers: Mutex::new(numbers), ready: AtomicBool::new(false) })
    }

    /// The numbers. A panic elsewhere leaves them whole enough to be shown.
    pub(super) fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn poll_failed(&self) {
        self.agent.poll_failed();
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

impl http::State for View {
    fn metrics(&self) -> Result<String> {
        let mut page = String::new();
        let numbers = self.numbers();
        Page {
            agent: &self.agent,
            ledger: &numbers.ledger,
            windows: &numbers.windows,
            kernel: numbers.kernel.as_ref(),
        }
        .render(&mut page)?;
        Ok(page)
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}
