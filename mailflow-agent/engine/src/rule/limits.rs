//! Limits of the state and of the alerts of rules.

/// Most groups of a table, whatever the settings are. Slot indices have 32 bits.
pub(crate) const MAX_GROUPS: usize = 1 << 24;

/// Limits of the state and of the alerts of rules, which hold for any number of spoofed sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleLimits {
    /// Most groups of one rule. Groups of allow-listed flows have a limit of their own, of the same number.
    pub groups: usize,
    /// Most bytes of the groups of one rule.
    pub memory: usize,
    /// New alerts of one rule in a minute. An aggregate alert reports all further ones.
    pub alerts_per_minute: u32,
    /// New half-open sources in a minute from which on a flood is reported.
    pub flood_sources: u32,
}

impl RuleLimits {
    /// Name of the alert about a flood. No rule may have it.
    pub const FLOOD_ALERT: &'static str = "spoofed-sources";

    /// Widest limits, for flow logs: each alert is reported by itself.
    pub const WIDEST: Self =
        Self { groups: MAX_GROUPS, memory: usize::MAX, alerts_per_minute: u32::MAX, flood_sources: u32::MAX };
}

impl Default for RuleLimits {
    fn default() -> Self {
        Self::WIDEST
    }
}
