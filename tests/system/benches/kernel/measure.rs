//! Measurement: rounds of all cases in a changing order; the result of each case is its tenth percentile.

use std::{
    io::Result,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use mailflow_engine::{flow::EvictOutcome, time::Time};
use mailflow_kernel::Kernel;

use super::{
    cases::{self, Case, Fill, Visit},
    driver::{Driver, Order, empty},
    sys::{self, Kind},
};

/// New flows in a row, before their eviction.
const NEW: u32 = 40_000;
/// CPU time of one measurement of a case, in nanoseconds.
const TIME: f64 = 8e6;
/// Time after every packet: flow times do not matter here.
pub(crate) const NOW: Time = Time::from_nanos(u64::MAX / 2);

/// Case that is ready to be measured: the program under test and the empty program, each with a driver if the
/// case has more than one flow.
pub(crate) struct Prepared<'a> {
    /// Index of the case.
    pub(crate) number: usize,
    case: &'a Case,
    tested: Runner,
    empty: Runner,
    times: Vec<f64>,
    empty_times: Vec<f64>,
}

enum Runner {
    Alone(OwnedFd),
    Driven(Driver),
}

impl Runner {
    fn new(case: &Case, tail: OwnedFd) -> Result<Self> {
        let order = match case.visit {
            Visit::Same => return Ok(Self::Alone(tail)),
            Visit::Known(order) => order,
            Visit::New => Order::Turn(i32::MAX as u32),
        };
        Ok(Self::Driven(Driver::new(case.kind, order, tail.as_fd())?))
    }

    fn program(&self) -> BorrowedFd<'_> {
        match self {
            Self::Alone(program) => program.as_fd(),
            Self::Driven(driver) => driver.program(),
        }
    }

    fn run(&self, case: &Case, repeat: u32) -> Result<f64> {
        if let (Self::Driven(driver), Visit::New) = (self, case.visit) {
            driver.begin(u64::from(case.fill as u32))?;
        }
        sys::run(self.program(), case.kind, &case.frame, repeat)
    }
}

impl<'a> Prepared<'a> {
    /// Prepares `case`; `kernel` has the number of flows that the case asks for.
    pub(crate) fn new(number: usize, case: &'a Case, kernel: &Kernel) -> anyhow::Result<Self> {
        let tested = Runner::new(case, kernel.descriptor(case.program)?)?;
        let empty = Runner::new(case, empty(case.kind)?)?;
        Ok(Self { number, case, tested, empty, times: Vec::new(), empty_times: Vec::new() })
    }

    /// Returns the case.
    pub(crate) fn case(&self) -> &'a Case {
        self.case
    }

    /// Measures once: the program, then the empty program.
    pub(crate) fn measure(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let repeat = match self.case.visit {
            Visit::New => NEW,
            // The first run of a round finds cold caches.
            _ => (TIME / self.tested.run(self.case, 20_000)?) as u32,
        };
        self.times.push(self.tested.run(self.case, repeat)?);
        self.empty_times.push(self.empty.run(self.case, repeat)?);
        if self.case.visit == Visit::New {
            forget_new(kernel, self.case.fill)?;
        }
        Ok(())
    }

    /// Returns the nanoseconds per packet, minus those of the empty program.
    pub(crate) fn result(&self) -> f64 {
        tenth_percentile(&self.times) - tenth_percentile(&self.empty_times)
    }
}

/// Inserts the flows of `fill` into the table.
pub(crate) fn fill(fill: Fill, kernel: &mut Kernel) -> anyhow::Result<()> {
    let flows = fill as u32;
    let driver = Driver::new(Kind::Xdp, Order::Turn(flows), kernel.descriptor(cases::FILLER)?.as_fd())?;
    sys::run(driver.program(), Kind::Xdp, &cases::known(), flows)?;
    let there = kernel.snapshot(NOW)?.flows.len();
    anyhow::ensure!(there == flows as usize, "{there} flows in the table, not {flows}");
    Ok(())
}

/// Evicts the new flows, which are those with a SYN.
fn forget_new(kernel: &mut Kernel, fill: Fill) -> anyhow::Result<()> {
    let mut new = kernel.snapshot(NOW)?.flows;
    new.retain(|flow| flow.facts.syn != 0);
    anyhow::ensure!(new.len() == NEW as usize, "{} new flows beside {}, not {NEW}", new.len(), fill as u32);
    let fates = kernel.evict(&new)?;
    anyhow::ensure!(fates.iter().all(|fate| *fate == EvictOutcome::Evicted), "some new flows stay");
    Ok(())
}

/// Returns the tenth percentile: other processes only ever add time.
pub(crate) fn tenth_percentile(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}
