//! The pages' contents, as the agent provides them.

/// What the pages show.
pub trait State: Send + Sync + 'static {
    /// The metrics page, in Prometheus' text format 0.0.4. May block.
    ///
    /// # Errors
    /// Whatever keeps the page from being made; it is logged and answered with 500.
    fn metrics(&self) -> anyhow::Result<String>;

    /// Returns true if the agent is counting.
    fn ready(&self) -> bool;

    /// A line about what is not as it should be although the agent counts, if there is something. Does not block.
    fn warning(&self) -> Option<String> {
        None
    }
}
