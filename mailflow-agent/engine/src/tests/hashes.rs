//! Search for differentials in the hashes of the agent's tables: differences of two inputs that collide for more
//! keys than chance explains. The tests of the program's tables are in mailflow-common.

use std::hash::{BuildHasher, Hash, RandomState};

use fastrand::Rng;
use mailflow_common::{Address, FlowKey, PROTOCOL_TCP, Scope, SourceOverflowKey, Vlans};

use crate::{
    eval::group_key::{GroupKey, Source},
    fixture::flow,
    flow::{Flow, fingerprint::FingerprintHasher},
};

/// Input of 288 bits: the addresses and ports of a flow.
type Words = [u32; 9];

/// Number of pairs, each with a new key.
const PAIRS: usize = 1 << 17;

/// Returns two inputs that differ in one to three bits, or in one byte.
fn pair(random: &mut Rng) -> [Words; 2] {
    let base: Words = std::array::from_fn(|_| random.u32(..));
    let mut other = base;
    while other == base {
        if random.u8(..4) == 0 {
            other[random.usize(..9)] ^= random.u32(1..256) << (8 * random.u32(..4));
        }
        for _ in 0..random.u8(1..4) {
            other[random.usize(..9)] ^= 1 << random.u32(..32);
        }
    }
    [base, other]
}

/// Returns the number of colliding pairs, of [`PAIRS`] pairs of different inputs.
fn collisions<T: PartialEq, H: PartialEq>(
    input: impl Fn(&Words) -> T,
    hash: impl Fn(&mut Rng, &T, &T) -> [H; 2],
) -> usize {
    let mut random = Rng::with_seed(9);
    let mut collisions_found = 0;
    for _ in 0..PAIRS {
        let [one, other] = pair(&mut random).map(|words| input(&words));
        if one != other {
            let [one, other] = hash(&mut random, &one, &other);
            collisions_found += usize::from(one == other);
        }
    }
    collisions_found
}

fn flow_of(words: &Words) -> Flow {
    let [client, server] = [0, 4].map(|from| Address::v6(std::array::from_fn(|word| words[from + word])));
    let (client_port, server_port) = ((words[8] >> 16) as u16, words[8] as u16);
    let scope = Scope::new(Vlans::default(), PROTOCOL_TCP, true);
    let key = FlowKey { client, server, client_port, server_port, scope };
    Flow { key, ..flow("10.0.0.1:4000", "9.9.9.9:25") }
}

#[test]
fn no_difference_makes_two_fingerprints_collide() {
    let collisions_found = collisions(flow_of, |random, one, other| {
        let hasher = FingerprintHasher::of_seeds([random.u64(..), random.u64(..)]);
        [hasher.of(one), hasher.of(other)].map(|fingerprint| fingerprint.high)
    });
    assert_eq!(collisions_found, 0);
    let collisions_found = collisions(flow_of, |random, one, other| {
        let hasher = FingerprintHasher::of_seeds([random.u64(..), random.u64(..)]);
        [hasher.of(one), hasher.of(other)].map(|fingerprint| fingerprint.low)
    });
    assert!(collisions_found <= 1, "{collisions_found} pairs share 32 bits");
}

/// Hashes with the standard library's keyed hash, which all tables of sources, groups and overflow use.
fn keyed<T: Hash>(_: &mut Rng, one: &T, other: &T) -> [u64; 2] {
    let state = RandomState::new();
    [state.hash_one(one), state.hash_one(other)]
}

#[test]
fn no_difference_makes_two_rows_of_a_table_share_a_hash() {
    let ip = |words: &Words| flow_of(words).client();
    let group_key = |words: &Words| GroupKey::Source(Source::of(ip(words), 128));
    let pair =
        |words: &Words| GroupKey::Pair(Box::new((Source::of(ip(words), 128), flow_of(words).server())));
    let overflow = |words: &Words| {
        let FlowKey { client, server_port, .. } = flow_of(words).key;
        SourceOverflowKey { source: client, server_port, protocol: u16::from(PROTOCOL_TCP) }
    };
    let metrics =
        |words: &Words| words.iter().take(4).fold(0_u128, |all, word| all << 32 | u128::from(*word));
    assert_eq!(collisions(group_key, keyed), 0);
    assert_eq!(collisions(pair, keyed), 0);
    assert_eq!(collisions(overflow, keyed), 0);
    assert_eq!(collisions(metrics, keyed), 0);
}
