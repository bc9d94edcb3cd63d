//! Set of watched ports, in the form that the program reads.

/// Number of words in a [`PortSet`], one bit for each port.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Set of ports. The program reads one word, whatever their number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSet([u64; PORT_WORDS]);

impl PortSet {
    /// Empty set.
    pub const EMPTY: Self = Self([0; PORT_WORDS]);

    /// Adds a port.
    pub fn insert(&mut self, port: u16) {
        self.0[usize::from(port >> 6)] |= 1 << (port & 63);
    }

    /// Returns the words of the map.
    pub const fn words(&self) -> &[u64; PORT_WORDS] {
        &self.0
    }

    /// Returns true if `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port >> 6)] >> (port & 63) & 1 == 1
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::EMPTY;
        ports.into_iter().for_each(|port| set.insert(port));
        set
    }
}

/// Returns true if datagrams to `port` carry packets, by the registry of service names and port numbers: L2TP,
/// GTP-U, Teredo, LISP, GRE in UDP, VXLAN and its extension, CAPWAP, GUE, Geneve, MPLS in UDP, and VXLAN where Linux
/// had it at first.
#[inline(always)]
pub const fn is_tunnel(port: u16) -> bool {
    matches!(port, 1701 | 2152 | 3544 | 4341 | 4754 | 4789 | 4790 | 5247 | 6080 | 6081 | 6635 | 8472)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let set = PortSet::from_iter([0, 25, 465, 65_535]);
        let held = (0..=u16::MAX).filter(|port| set.contains(*port));
        assert!(held.eq([0, 25, 465, 65_535]));
    }
}
