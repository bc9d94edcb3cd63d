//! Alerts to any receiver of JSON: a POST for each event.

use super::{
    AlertEvent,
    post::Post,
    profile::Format,
    single::{Deliver, Failure},
};

/// A receiver.
pub(super) struct Webhook {
    pub(super) post: Post,
    pub(super) format: Format,
}

impl Deliver<AlertEvent> for Webhook {
    fn deliver(&mut self, (alert, epoch): &AlertEvent) -> Result<(), Failure> {
        let line = self.format.alert_line(alert, *epoch).map_err(Failure::refused)?;
        self.post.send(&line)
    }
}
