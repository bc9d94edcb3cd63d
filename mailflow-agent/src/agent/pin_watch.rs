//! Watch for pins that another process removed.

use std::time::Duration;

use tracing::{info, warn};

use crate::{status::shared_status::SharedStatus, util::error_chain::LogRateLimit};
use mailflow_engine::time::Time;
use mailflow_kernel::Kernel;

/// Time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Schedule and state of the checks.
#[derive(Debug, Default)]
pub(crate) struct PinWatch {
    next: Time,
    pins_missing: bool,
    lines: LogRateLimit,
}

impl PinWatch {
    /// Creates removed pins again, if a check is due.
    pub(crate) fn check(&mut self, now: Time, kernel: &mut Kernel, view: &SharedStatus) {
        if now < self.next {
            return;
        }
        self.next = now + CHECK_INTERVAL;
        match kernel.restore_pins() {
            Ok(restored) => {
                if !restored.is_empty() {
                    warn!(pins = restored.join(", "), "pins were removed by another process; created again");
                } else if self.pins_missing {
                    info!("all pins exist again");
                }
                if std::mem::take(&mut self.pins_missing) {
                    view.set_pins(None);
                }
            }
            Err(error) => {
                self.pins_missing = true;
                if self.lines.may_log(now) {
                    warn!(%error, "pins were removed by another process, and cannot be created again; the programs end with the agent");
                }
                view.set_pins(Some(format!("pins are missing and cannot be created again: {error}")));
            }
        }
    }
}
