//! Looks from time to time whether somebody removed the pins.

use std::time::Duration;

use tracing::{info, warn};

use crate::{status::shared_status::View, util::error_chain::Limited};
use mailflow_engine::time::Time;
use mailflow_kernel::Kernel;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// When to look.
#[derive(Debug, Default)]
pub(crate) struct PinWatch {
    next: Time,
    trouble: bool,
    lines: Limited,
}

impl PinWatch {
    /// Makes pins again that are gone, if it is time to look.
    pub(crate) fn look(&mut self, now: Time, kernel: &mut Kernel, view: &View) {
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        match kernel.restore_pins() {
            Ok(made) => {
                if !made.is_empty() {
                    warn!(pins = made.join(", "), "pins were removed by somebody, and are made again");
                } else if self.trouble {
                    info!("nothing is missing of the pins any more");
                }
                if std::mem::take(&mut self.trouble) {
                    view.set_pins(None);
                }
            }
            Err(error) => {
                self.trouble = true;
                if self.lines.may_say(now) {
                    warn!(%error, "pins were removed by somebody, and cannot be made again: the programs end with the agent");
                }
                view.set_pins(Some(format!("pins are missing and cannot be made again: {error}")));
            }
        }
    }
}
