//! Alerts to any receiver of JSON: a POST for each event.

use super::{
    AlertEvent,
    post::Post,
    profile::alert_line,
    single::{Deliver, Failure},
};
use crate::config::Profile;

/// A receiver.
pub(super) struct Webhook {
    pub(super) post: Post,
    pub(super) profile: Profile,
}

impl Deliver<AlertEvent> for Webhook {
    fn deliver(&mut self, (alert, epoch): &AlertEvent) -> Result<(), Failure> {
        let line = alert_line(self.profile, alert, *epoch).map_err(Failure::refused)?;
        self.post.send(&line)
    }
}
