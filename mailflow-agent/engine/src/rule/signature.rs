//! Numeric signature ids of rules, for outputs that identify signatures by number.

use sha1::{Digest, Sha1};

/// First signature id, and the number of ids. All ids fit into 31 bits.
const FIRST_SIGNATURE_ID: u32 = 1_000_000_000;
const SIGNATURE_IDS: u64 = 1_000_000_000;

/// Returns the signature id of a rule, from 1000000000 to 1999999999. It depends on the rule's name only.
pub fn signature_id(rule: &str) -> u32 {
    let digest: [u8; 20] = Sha1::digest(rule).into();
    let number = digest[..8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    FIRST_SIGNATURE_ID + (number % SIGNATURE_IDS) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_stay_as_they_are_and_in_their_range() {
        // Consumers store the ids, so they must not change between versions.
        assert_eq!([signature_id("smtp-burst"), signature_id("smtp-bulk")], [1_026_403_007, 1_602_220_356]);
        let ids: HashSet<u32> = (0..10_000).map(|rule| signature_id(&format!("rule-{rule}"))).collect();
        assert!(ids.iter().all(|id| (1_000_000_000..2_000_000_000).contains(id)));
        assert!(ids.len() > 9_990, "{} of 10,000 differ", ids.len());
    }
}
