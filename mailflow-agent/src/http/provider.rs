//! Interface to the agent, which provides the content of the pages.

/// Provider of the content of the pages.
pub trait MetricsProvider: Send + Sync + 'static {
    /// Returns the metrics page in Prometheus' text format 0.0.4. May block.
    ///
    /// # Errors
    /// The page cannot be rendered. The error is logged, and the response has status 500.
    fn metrics(&self) -> anyhow::Result<String>;

    /// Returns true if the agent is counting.
    fn ready(&self) -> bool;

    /// Returns a warning if the agent counts with a restriction. Does not block.
    fn warning(&self) -> Option<String> {
        None
    }
}
