//! Search for differentials: differences between two inputs that collide for more keys than chance explains.
//!
//! Each difference is tried with several random keys and bases, 2^24 hashes of pairs for each hash in all.

extern crate std;

use std::vec::Vec;

use fastrand::Rng;

use super::*;
use crate::{Scope, Vlans, bucket_index, tag_of};

/// Pairs that are tried for each hash.
const PAIRS: usize = 1 << 24;
/// Sets of the default flow table.
const SETS: u32 = 37_450;
/// Keys that pairs choose from.
const KEYS: usize = 1 << 12;

/// Word of an IPv4 flow that holds the ports, the client's in the high half.
const PORTS: usize = 2;

/// Exclusive or of two inputs.
type Difference<const W: usize> = [u32; W];

fn keys(seed: u64) -> (Vec<HashKeys>, Rng) {
    let mut random = Rng::with_seed(seed);
    let keys = (0..KEYS).map(|_| HashKeys::draw(|| random.u64(..))).collect();
    (keys, random)
}

fn bit<const W: usize>(number: usize) -> Difference<W> {
    let mut difference = [0; W];
    difference[number / 32] = 1 << (number % 32);
    difference
}

fn xor<const W: usize>(one: Difference<W>, other: Difference<W>) -> Difference<W> {
    core::array::from_fn(|word| one[word] ^ other[word])
}

/// Visits every difference of one, two and three bits and of one byte.
fn differences<const W: usize>(mut visit: impl FnMut(Difference<W>)) {
    for one in 0..32 * W {
        visit(bit(one));
        for two in 0..one {
            visit(xor(bit(one), bit(two)));
            for three in 0..two {
                visit(xor(xor(bit(one), bit(two)), bit(three)));
            }
        }
    }
    for byte in 0..4 * W {
        for value in 1..256_u32 {
            let mut difference = [0; W];
            difference[byte / 4] = value << (8 * (byte % 4));
            visit(difference);
        }
    }
}

/// Tries each difference, and returns how many of `PAIRS` collide, or of a few more. No single difference may collide
/// more than three times.
fn search<const W: usize>(seed: u64, collides: impl Fn(&HashKeys, [u32; W], [u32; W]) -> bool) -> usize {
    let (keys, mut random) = keys(seed);
    let mut count = 0_usize;
    differences::<W>(|_| count += 1);
    let tries = PAIRS.div_ceil(count);
    let mut all = 0;
    differences(|difference| {
        let mut of_this = 0;
        for _ in 0..tries {
            let base: [u32; W] = core::array::from_fn(|_| random.u32(..));
            let keys = &keys[random.usize(..KEYS)];
            of_this += usize::from(collides(keys, base, xor(base, difference)));
        }
        assert!(of_this <= 3, "{difference:08x?} collides {of_this} times of {tries}");
        all += of_this;
    });
    all
}

fn v4([client, server, ports, scope]: [u32; 4]) -> FlowTableKey {
    let scope = Scope::new(Vlans::default().push(scope as u16), scope as u8 >> 1, false);
    FlowTableKey::v4([client, server], [(ports >> 16) as u16, ports as u16], scope)
}

fn v6(words: [u32; 9]) -> (FlowTableKey, KeyRemainder) {
    let (client, server) = (words.first_chunk().copied(), words[4..].first_chunk().copied());
    let scope = Scope::new(Vlans::default(), 6, true);
    FlowTableKey::of(&crate::FlowKey {
        client: Address::v6(client.unwrap_or_default()),
        server: Address::v6(server.unwrap_or_default()),
        client_port: (words[8] >> 16) as u16,
        server_port: words[8] as u16,
        scope,
    })
}

#[test]
fn no_difference_makes_two_ipv4_flows_share_a_tag() {
    let tag = |keys: &HashKeys, words| tag_of(keys.flow_v4(&v4(words)));
    let same = |one, other| v4(one) == v4(other);
    assert_eq!(search(1, |keys, one, other| !same(one, other) && tag(keys, one) == tag(keys, other)), 0);
}

#[test]
fn no_difference_makes_two_ipv6_flows_share_a_tag() {
    let tag = |keys: &HashKeys, words| {
        let (place, rest) = v6(words);
        tag_of(keys.flow(&place, &rest))
    };
    assert_eq!(search::<9>(2, |keys, one, other| tag(keys, one) == tag(keys, other)), 0);
}

/// Chance alone finds one collision in `places` pairs, with a standard deviation of the root of their number. A search
/// tries a quarter more pairs than `PAIRS` at most.
fn assert_chance(found: usize, places: u32) {
    let expected = 1.25 * PAIRS as f64 / f64::from(places);
    let most = expected + 6.0 * expected.sqrt() + 1.0;
    assert!((found as f64) < most, "{found} collisions, {expected:.0} by chance");
}

#[test]
fn no_difference_makes_two_flows_share_a_set_more_often_than_chance() {
    let set = |keys: &HashKeys, words| bucket_index(tag_of(keys.flow_v4(&v4(words))), SETS);
    let same = |one, other| v4(one) == v4(other);
    let found = search(3, |keys, one, other| !same(one, other) && set(keys, one) == set(keys, other));
    assert_chance(found, SETS);
    let set = |keys: &HashKeys, words| {
        let (place, rest) = v6(words);
        bucket_index(tag_of(keys.flow(&place, &rest)), SETS)
    };
    assert_chance(search::<9>(4, |keys, one, other| set(keys, one) == set(keys, other)), SETS);
}

#[test]
fn no_difference_makes_two_sources_share_a_cell_more_often_than_chance() {
    for row in 0..2 {
        let cell = |keys: &HashKeys, words| keys.source(&Address::v6(words))[row] >> 16;
        let found = search::<4>(5, |keys, one, other| cell(keys, one) == cell(keys, other));
        assert_chance(found, crate::SKETCH_ROW_CELLS);
    }
    let cells = |keys: &HashKeys, words| keys.source(&Address::v6(words)).map(|hash| hash >> 16);
    let both = search::<4>(6, |keys, one, other| cells(keys, one) == cells(keys, other));
    assert!(both <= 2, "{both} pairs share both cells");
}

/// The two differences that collided under every key of the hash before this one.
#[test]
fn known_attacks_find_no_collision() {
    let (keys, mut random) = keys(7);
    for round in 0..1 << 16 {
        let keys = &keys[round % KEYS];
        // IPv6: bytes 3, 11 and 15 of the server's address, top bit.
        let mut words: [u32; 9] = core::array::from_fn(|_| random.u32(..));
        let of = |words: [u32; 9]| {
            let (place, rest) = v6(words);
            tag_of(keys.flow(&place, &rest))
        };
        let before = of(words);
        for word in [4, 6, 7] {
            words[word] ^= u32::from_ne_bytes([0, 0, 0, 0x80]);
        }
        assert_ne!(of(words), before);
        // IPv4: another last octet of the client, and the client's port.
        let base = [random.u32(..), random.u32(..), random.u32(..), 6];
        for octet in 1..=255 {
            let mut other = base;
            other[0] ^= u32::from_ne_bytes([0, 0, 0, octet]);
            other[PORTS] ^= 0x1700 << 16;
            assert_ne!(tag_of(keys.flow_v4(&v4(base))), tag_of(keys.flow_v4(&v4(other))));
        }
    }
}

/// A hash that multiplies 64-bit words, as the one before did, has such differences: the search finds them.
#[test]
fn the_search_finds_differences_of_a_weak_hash() {
    let weak = |keys: &HashKeys, [one, two, three, four]: [u32; 4]| {
        let [seed, ..] = keys.flow[0];
        let ends = u64::from(one) << 32 | u64::from(two);
        let hash = (ends ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash ^ (u64::from(three) << 32 | u64::from(four))).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32
    };
    let found = std::panic::catch_unwind(|| {
        search::<4>(8, |keys, one, other| weak(keys, one) == weak(keys, other));
    });
    assert!(found.is_err());
}
