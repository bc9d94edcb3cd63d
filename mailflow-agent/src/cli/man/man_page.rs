//! Page of the manual.

/// Man page.
pub(super) struct ManPage {
    /// Name without the section, such as `mailflow-agent-status`.
    pub(super) name: String,
    /// Section of the manual, such as `1`.
    pub(super) section: &'static str,
    /// Text in roff.
    pub(super) text: String,
}
