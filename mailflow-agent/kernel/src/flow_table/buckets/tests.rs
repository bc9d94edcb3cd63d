//! The sets as the program fills them, in memory of our own.

use mailflow_common::{BucketSlot, MapEntry, PROTOCOL_TCP, Scope, Vlans};

use super::*;
use crate::flow_table::element;

const PACKETS: u64 = 7;

fn key(client: &str, port: u16) -> FlowKey {
    let [client, server] = [client, "2001:db8::25"].map(|end| end.parse::<std::net::IpAddr>().unwrap());
    let scope = Scope::new(Vlans::default(), PROTOCOL_TCP, client.is_ipv6());
    FlowKey { client: client.into(), server: server.into(), client_port: port, server_port: 25, scope }
}

fn keys() -> HashKeys {
    let mut word = 3_u64;
    HashKeys::draw(|| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word
    })
}

/// Inserts a flow, as the program does.
fn put(sets: &Sets, key: &FlowKey, first: u64) -> usize {
    let (place, rest, tag) = sets.place(key);
    let count = (sets.sets.words().len() / SET_WORDS) as u32;
    let set = &sets.sets.words()[bucket_index(tag, count) as usize * SET_WORDS..][..SET_WORDS];
    let way = (0..BUCKET_SLOTS).find(|way| set[*way].load(Ordering::Relaxed) == EMPTY).unwrap();
    let mut counters = FlowCounters { first, ..FlowCounters::default() };
    counters.up.bare_packets = PACKETS as u32;
    let filled = [BucketSlot { key: place, entry: MapEntry { counters, remainder: rest } }];
    for (word, bytes) in slot(set, way).iter().zip(element::bytes(&filled).chunks_exact(8)) {
        word.store(u64::from_ne_bytes(bytes.try_into().unwrap()), Ordering::Relaxed);
    }
    set[way].store(tag, Ordering::Release);
    let inserted = sets.groups.as_ref().unwrap().inserted.words();
    inserted[(bucket_index(tag, count) / BUCKETS_PER_GROUP) as usize].store(1, Ordering::Release);
    way
}

/// Visits all flows. Returns the counts of duplicates.
fn visit_all(sets: &Sets, mut visit: impl FnMut(&FlowKey, &FlowCounters)) -> Sum {
    let mut cursor = BucketCursor::default();
    while sets.visit_next(&mut cursor, &mut visit) {}
    cursor.apart
}

fn count(sets: &Sets) -> usize {
    let mut count = 0;
    visit_all(sets, |_, _| count += 1);
    count
}

#[test]
fn flows_are_shown_and_found_each_by_itself() {
    let sets = Sets::ours(2, keys()).unwrap();
    let flows: Vec<_> = (0..6).map(|port| key("2001:db8::1", port)).collect();
    flows.iter().for_each(|key| _ = put(&sets, key, 1));
    let mut shown = Vec::new();
    visit_all(&sets, |key, _| shown.push(*key));
    shown.sort_unstable_by_key(|key| key.client_port);
    assert_eq!(shown, flows);
    assert!(flows.iter().all(|key| sets.get(key).is_some()));
    assert_eq!(sets.get(&key("2001:db8::2", 0)), None);
}

#[test]
fn one_that_another_cpu_is_about_to_write_is_not_shown() {
    let sets = Sets::ours(1, keys()).unwrap();
    let key = key("2001:db8::1", 1);
    let way = put(&sets, &key, 0);
    assert_eq!((count(&sets), sets.get(&key)), (0, None));
    assert_eq!(sets.take(&key, PACKETS), Taken::Absent);
    // Its insertion was noted once, before it was written.
    slot(&sets.sets.words()[..SET_WORDS], way)[FIRST].store(1, Ordering::Release);
    assert_eq!(count(&sets), 1);
}

/// Returns the groups that are read, by number.
fn read_groups(sets: &Sets) -> Vec<usize> {
    let groups = sets.groups.as_ref().unwrap();
    let words = groups.inserted.words();
    let occupied = groups.occupied.borrow();
    (0..words.len()).filter(|group| words[*group].load(Ordering::Relaxed) == 1 || occupied[*group]).collect()
}

#[test]
fn only_groups_of_sets_with_flows_are_read() {
    const SETS: u32 = 10 * BUCKETS_PER_GROUP - 1;
    let sets = Sets::ours(SETS as usize, keys()).unwrap();
    assert_eq!(read_groups(&sets).len(), 10, "an agent before this one may have read the words");
    assert_eq!((count(&sets), read_groups(&sets)), (0, vec![]));
    let flows: Vec<_> = (0..3).map(|port| key("10.0.0.1", port)).collect();
    let group = |key: &FlowKey| (sets.number(sets.place(key).2) / BUCKETS_PER_GROUP) as usize;
    flows.iter().for_each(|key| _ = put(&sets, key, 1));
    let mut holding: Vec<_> = flows.iter().map(group).collect();
    holding.sort_unstable();
    holding.dedup();
    for _ in 0..3 {
        assert_eq!((read_groups(&sets), count(&sets)), (holding.clone(), 3));
    }
    for key in &flows {
        assert_eq!(sets.take(key, PACKETS), Taken::Out);
    }
    assert_eq!((count(&sets), read_groups(&sets)), (0, vec![]));
    sets.free(false);
    // Its way is used again.
    put(&sets, &flows[1], 2);
    assert_eq!((read_groups(&sets), count(&sets)), (vec![group(&flows[1])], 1));
}

#[test]
fn a_scan_that_is_not_completed_loses_no_flow() {
    let sets = Sets::ours(2 * BUCKETS_PER_GROUP as usize, keys()).unwrap();
    assert_eq!((count(&sets), read_groups(&sets)), (0, vec![]));
    let flow = key("10.0.0.1", 1);
    put(&sets, &flow, 1);
    let mut cursor = BucketCursor::default();
    assert!(sets.visit_next(&mut cursor, &mut |_, _| {}));
    assert_eq!((read_groups(&sets).len(), count(&sets)), (1, 1));
}

#[test]
fn a_flow_is_taken_out_only_as_it_was_seen_and_its_way_freed_when_nothing_is_under_way() {
    let sets = Sets::ours(1, keys()).unwrap();
    let (one, other) = (key("2001:db8::1", 1), key("2001:db8::1", 2));
    let way = put(&sets, &one, 1);
    put(&sets, &other, 1);
    assert_eq!(sets.take(&one, PACKETS - 1), Taken::Lives);
    assert_eq!(sets.take(&one, PACKETS), Taken::Out);
    assert_eq!((sets.take(&one, PACKETS), count(&sets)), (Taken::Absent, 1));
    assert_eq!((sets.free(true), sets.left.borrow().len()), (Sum::default(), 1), "it was just now");
    // A packet that had found the flow before.
    let set = &sets.sets.words()[..SET_WORDS];
    let bare = (offset_of!(BucketSlot, entry) + offset_of!(FlowCounters, up)) / 8 + 3;
    slot(set, way)[bare].fetch_add(60, Ordering::Relaxed);
    assert_eq!(sets.free(false).up.bytes, 60, "it is in no record, and counted all the same");
    assert!(slot(set, way).iter().all(|word| word.load(Ordering::Relaxed) == 0));
    assert_eq!((set[way].load(Ordering::Relaxed), sets.left.borrow().len()), (EMPTY, 0));
    assert_eq!(put(&sets, &one, 2), way, "there is room again");
    // Two looks at the clock: what was taken out after the first is not freed with what was before it.
    assert_eq!(sets.take(&one, PACKETS), Taken::Out);
    sets.mark();
    std::thread::sleep(UNDER_WAY);
    assert_eq!(sets.take(&other, PACKETS), Taken::Out);
    assert_eq!((sets.free(true), sets.left.borrow().len()), (Sum::default(), 1));
    assert_eq!(set[way].load(Ordering::Relaxed), EMPTY);
}

#[test]
fn what_an_agent_before_took_out_is_freed_by_the_next() {
    let before = Sets::ours(1, keys()).unwrap();
    let one = key("2001:db8::1", 1);
    put(&before, &one, 1);
    assert_eq!(before.take(&one, PACKETS), Taken::Out);
    let after = Sets { left: RefCell::default(), ..before };
    after.find_left();
    assert_eq!((after.free(false), after.left.borrow().len()), (Sum::default(), 0));
    assert!(after.sets.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

#[test]
fn a_flow_that_began_twice_becomes_one() {
    let sets = Sets::ours(1, keys()).unwrap();
    let one = key("2001:db8::1", 1);
    assert_ne!(put(&sets, &one, 1), put(&sets, &one, 1));
    let mut shown = 0;
    let apart = visit_all(&sets, |_, entry| shown += entry.up.packets());
    assert_eq!((shown, apart.up.packets), (PACKETS, PACKETS), "the other part is known");
    let mut late = apart;
    late.add(&sets.free(false));
    assert_eq!(late, Sum::default(), "it is the flow's now");
    assert_eq!((count(&sets), sets.get(&one).unwrap().up.packets()), (1, 2 * PACKETS));
    assert_eq!(sets.take(&one, 2 * PACKETS), Taken::Out);
    // Its record waits until it is.
    sets.free(false);
    put(&sets, &one, 1);
    put(&sets, &one, 1);
    visit_all(&sets, |_, _| {});
    assert_eq!(sets.take(&one, PACKETS), Taken::Lives);
    sets.free(false);
    assert_eq!(sets.take(&one, 2 * PACKETS), Taken::Out);
}

#[test]
fn what_a_flow_had_beside_its_set_is_added_to_it() {
    let sets = Sets::ours(1, keys()).unwrap();
    let one = key("10.0.0.1", 1);
    let beside = || sets.sets.words()[offset_of!(Bucket, fallback) / 8].load(Ordering::Relaxed);
    sets.sets.words()[offset_of!(Bucket, fallback) / 8].store(2, Ordering::Relaxed);
    let mut counters = FlowCounters { messages: 3, ..FlowCounters::default() };
    (counters.facts.syn, counters.facts.seen) = (1, 2);
    counters.facts.first_payload_up = 5;
    counters.down.payload = 70;
    assert!(!sets.join(&one, &counters));
    put(&sets, &one, 1);
    assert!(sets.has(&one) && sets.join(&one, &counters));
    let sum = sets.get(&one).unwrap();
    assert_eq!((sum.messages, sum.facts.syn, sum.facts.seen, sum.down.payload), (3, 1, 2, 70));
    assert_eq!((sum.facts.first_payload_up, sum.up.packets(), beside()), (0, PACKETS, 0));
}

#[test]
fn a_source_gets_its_share_back() {
    let sharing = SourceLimit { keys: keys(), ..SourceLimit::NONE };
    let shares = Mapped::own(mailflow_common::SKETCH_CELLS as usize * 8).unwrap();
    let one = key("2001:db8::1", 1);
    let cells = sharing.cells(&sharing.source(&one.client));
    cells.iter().for_each(|cell| shares.words()[*cell as usize].store(2, Ordering::Relaxed));
    let sets = Sets { shares: Some((shares, sharing)), ..Sets::ours(1, keys()).unwrap() };
    put(&sets, &one, 1);
    assert_eq!(sets.take(&one, PACKETS), Taken::Out);
    let words = sets.shares.as_ref().unwrap().0.words();
    assert!(cells.iter().all(|cell| words[*cell as usize].load(Ordering::Relaxed) == 1));
}
