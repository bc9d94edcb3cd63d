//! Bounds on what rules remember and alert.

/// Most subjects of a rule, whatever the settings say: places are 32 bits, and few of them have more.
pub(crate) const MAX_GROUPS: usize = 1 << 24;

/// What the rules may hold and tell, however many sources are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleLimits {
    /// Most subjects that one rule remembers; of flows on an allow-list as many again.
    pub groups: usize,
    /// Most bytes of what one rule remembers of them.
    pub memory: usize,
    /// New alerts of one rule in a minute. Those beyond are told together.
    pub alerts_per_minute: u32,
    /// Sources that began a connection in a minute and completed none, from which on they are named as a flood.
    pub flood_sources: u32,
}

impl RuleLimits {
    /// Name of the alert about a flood, which no rule may have.
    pub const FLOOD_ALERT: &'static str = "spoofed-sources";

    /// The bounds of a rule's table, and none else: what was logged is told alert by alert.
    pub const WIDEST: Self =
        Self { groups: MAX_GROUPS, memory: usize::MAX, alerts_per_minute: u32::MAX, flood_sources: u32::MAX };
}

impl Default for RuleLimits {
    fn default() -> Self {
        Self::WIDEST
    }
}
