//! Buckets in private memory, filled as the program does.

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
fn put(table: &BucketTable, key: &FlowKey, first: u64) -> usize {
    let (table_key, remainder, tag) = table.locate(key);
    let count = (table.buckets.words().len() / BUCKET_WORDS) as u32;
    let bucket = &table.buckets.words()[bucket_index(tag, count) as usize * BUCKET_WORDS..][..BUCKET_WORDS];
    let slot_index =
        (0..BUCKET_SLOTS).find(|slot_index| bucket[*slot_index].load(Ordering::Relaxed) == EMPTY).unwrap();
    let mut counters = FlowCounters { first, ..FlowCounters::default() };
    counters.up.bare_packets = PACKETS as u32;
    let filled = [BucketSlot { key: table_key, entry: MapEntry { counters, remainder } }];
    for (word, bytes) in slot(bucket, slot_index).iter().zip(element::bytes(&filled).chunks_exact(8)) {
        word.store(u64::from_ne_bytes(bytes.try_into().unwrap()), Ordering::Relaxed);
    }
    bucket[slot_index].store(tag, Ordering::Release);
    let inserted = table.groups.as_ref().unwrap().inserted.words();
    inserted[(bucket_index(tag, count) / BUCKETS_PER_GROUP) as usize].store(1, Ordering::Release);
    slot_index
}

/// Visits all flows. Returns the counts of duplicates.
fn visit_all(table: &BucketTable, mut visit: impl FnMut(&FlowKey, &FlowCounters)) -> TrafficSum {
    let mut cursor = BucketCursor::default();
    while table.visit_next(&mut cursor, &mut visit) {}
    cursor.unmerged
}

fn count(table: &BucketTable) -> usize {
    let mut count = 0;
    visit_all(table, |_, _| count += 1);
    count
}

#[test]
fn each_flow_is_visited_and_found() {
    let table = BucketTable::in_memory(2, keys()).unwrap();
    let flows: Vec<_> = (0..6).map(|port| key("2001:db8::1", port)).collect();
    flows.iter().for_each(|key| _ = put(&table, key, 1));
    let mut visited = Vec::new();
    visit_all(&table, |key, _| visited.push(*key));
    visited.sort_unstable_by_key(|key| key.client_port);
    assert_eq!(visited, flows);
    assert!(flows.iter().all(|key| table.counters(key).is_some()));
    assert_eq!(table.counters(&key("2001:db8::2", 0)), None);
}

#[test]
fn a_slot_without_a_start_time_is_not_visited() {
    let table = BucketTable::in_memory(1, keys()).unwrap();
    let key = key("2001:db8::1", 1);
    let slot_index = put(&table, &key, 0);
    assert_eq!((count(&table), table.counters(&key)), (0, None));
    assert_eq!(table.evict(&key, PACKETS), SlotEviction::Missing);
    // The program sets the word of the group once, before it writes the slot.
    slot(&table.buckets.words()[..BUCKET_WORDS], slot_index)[FIRST_WORD].store(1, Ordering::Release);
    assert_eq!(count(&table), 1);
}

/// Returns the groups that are read, by number.
fn read_groups(table: &BucketTable) -> Vec<usize> {
    let groups = table.groups.as_ref().unwrap();
    let words = groups.inserted.words();
    let occupied = groups.occupied.borrow();
    (0..words.len()).filter(|group| words[*group].load(Ordering::Relaxed) == 1 || occupied[*group]).collect()
}

#[test]
fn only_groups_with_flows_are_read() {
    const SETS: u32 = 10 * BUCKETS_PER_GROUP - 1;
    let table = BucketTable::in_memory(SETS as usize, keys()).unwrap();
    assert_eq!(read_groups(&table).len(), 10, "an agent before this one may have read the words");
    assert_eq!((count(&table), read_groups(&table)), (0, vec![]));
    let flows: Vec<_> = (0..3).map(|port| key("10.0.0.1", port)).collect();
    let group = |key: &FlowKey| (table.bucket_number(table.locate(key).2) / BUCKETS_PER_GROUP) as usize;
    flows.iter().for_each(|key| _ = put(&table, key, 1));
    let mut holding: Vec<_> = flows.iter().map(group).collect();
    holding.sort_unstable();
    holding.dedup();
    for _ in 0..3 {
        assert_eq!((read_groups(&table), count(&table)), (holding.clone(), 3));
    }
    for key in &flows {
        assert_eq!(table.evict(key, PACKETS), SlotEviction::Evicted);
    }
    assert_eq!((count(&table), read_groups(&table)), (0, vec![]));
    table.free_tombstones(false);
    // The slot is used again.
    put(&table, &flows[1], 2);
    assert_eq!((read_groups(&table), count(&table)), (vec![group(&flows[1])], 1));
}

#[test]
fn a_scan_that_is_not_completed_loses_no_flow() {
    let table = BucketTable::in_memory(2 * BUCKETS_PER_GROUP as usize, keys()).unwrap();
    assert_eq!((count(&table), read_groups(&table)), (0, vec![]));
    let flow = key("10.0.0.1", 1);
    put(&table, &flow, 1);
    let mut cursor = BucketCursor::default();
    assert!(table.visit_next(&mut cursor, &mut |_, _| {}));
    assert_eq!((read_groups(&table).len(), count(&table)), (1, 1));
}

#[test]
fn only_unchanged_flows_are_evicted_and_slots_freed_after_the_packet_time() {
    let table = BucketTable::in_memory(1, keys()).unwrap();
    let (one, other) = (key("2001:db8::1", 1), key("2001:db8::1", 2));
    let slot_index = put(&table, &one, 1);
    put(&table, &other, 1);
    assert_eq!(table.evict(&one, PACKETS - 1), SlotEviction::Changed);
    assert_eq!(table.evict(&one, PACKETS), SlotEviction::Evicted);
    assert_eq!((table.evict(&one, PACKETS), count(&table)), (SlotEviction::Missing, 1));
    assert_eq!(
        (table.free_tombstones(true), table.tombstones.borrow().len()),
        (TrafficSum::default(), 1),
        "it was just now"
    );
    // A packet that had found the flow before its eviction.
    let bucket = &table.buckets.words()[..BUCKET_WORDS];
    let bare = (offset_of!(BucketSlot, entry) + offset_of!(FlowCounters, up)) / 8 + 3;
    slot(bucket, slot_index)[bare].fetch_add(60, Ordering::Relaxed);
    assert_eq!(table.free_tombstones(false).up.bytes, 60, "it is in no record, and counted all the same");
    assert!(slot(bucket, slot_index).iter().all(|word| word.load(Ordering::Relaxed) == 0));
    assert_eq!((bucket[slot_index].load(Ordering::Relaxed), table.tombstones.borrow().len()), (EMPTY, 0));
    assert_eq!(put(&table, &one, 2), slot_index, "there is room again");
    // Two time stamps: a tombstone after the first is not freed with those before it.
    assert_eq!(table.evict(&one, PACKETS), SlotEviction::Evicted);
    table.stamp_tombstones();
    std::thread::sleep(MAX_PACKET_TIME);
    assert_eq!(table.evict(&other, PACKETS), SlotEviction::Evicted);
    assert_eq!((table.free_tombstones(true), table.tombstones.borrow().len()), (TrafficSum::default(), 1));
    assert_eq!(bucket[slot_index].load(Ordering::Relaxed), EMPTY);
}

#[test]
fn tombstones_of_an_earlier_agent_are_freed() {
    let before = BucketTable::in_memory(1, keys()).unwrap();
    let one = key("2001:db8::1", 1);
    put(&before, &one, 1);
    assert_eq!(before.evict(&one, PACKETS), SlotEviction::Evicted);
    let after = BucketTable { tombstones: RefCell::default(), ..before };
    after.find_tombstones();
    assert_eq!((after.free_tombstones(false), after.tombstones.borrow().len()), (TrafficSum::default(), 0));
    assert!(after.buckets.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

#[test]
fn duplicates_of_a_flow_are_merged() {
    let table = BucketTable::in_memory(1, keys()).unwrap();
    let one = key("2001:db8::1", 1);
    assert_ne!(put(&table, &one, 1), put(&table, &one, 1));
    let mut visited = 0;
    let unmerged = visit_all(&table, |_, entry| visited += entry.up.packets());
    assert_eq!((visited, unmerged.up.packets), (PACKETS, PACKETS), "the other part is known");
    let mut late = unmerged;
    late.add(&table.free_tombstones(false));
    assert_eq!(late, TrafficSum::default(), "it is the flow's now");
    assert_eq!((count(&table), table.counters(&one).unwrap().up.packets()), (1, 2 * PACKETS));
    assert_eq!(table.evict(&one, 2 * PACKETS), SlotEviction::Evicted);
    // The flow is not evicted before its duplicate is merged.
    table.free_tombstones(false);
    put(&table, &one, 1);
    put(&table, &one, 1);
    visit_all(&table, |_, _| {});
    assert_eq!(table.evict(&one, PACKETS), SlotEviction::Changed);
    table.free_tombstones(false);
    assert_eq!(table.evict(&one, 2 * PACKETS), SlotEviction::Evicted);
}

#[test]
fn counts_in_the_fallback_map_are_merged() {
    let table = BucketTable::in_memory(1, keys()).unwrap();
    let one = key("10.0.0.1", 1);
    let fallback_count = || table.buckets.words()[offset_of!(Bucket, fallback) / 8].load(Ordering::Relaxed);
    table.buckets.words()[offset_of!(Bucket, fallback) / 8].store(2, Ordering::Relaxed);
    let mut counters = FlowCounters { messages: 3, ..FlowCounters::default() };
    (counters.facts.syn, counters.facts.seen) = (1, 2);
    counters.facts.first_payload_up = 5;
    counters.down.payload = 70;
    assert!(!table.merge_fallback(&one, &counters));
    put(&table, &one, 1);
    assert!(table.contains(&one) && table.merge_fallback(&one, &counters));
    let sum = table.counters(&one).unwrap();
    assert_eq!((sum.messages, sum.facts.syn, sum.facts.seen, sum.down.payload), (3, 1, 2, 70));
    assert_eq!((sum.facts.first_payload_up, sum.up.packets(), fallback_count()), (0, PACKETS, 0));
}

#[test]
fn an_eviction_decrements_the_source_sketch() {
    let source_limit = SourceLimit { keys: keys(), ..SourceLimit::NONE };
    let sketch = MmapArray::private(mailflow_common::SKETCH_CELLS as usize * 8).unwrap();
    let one = key("2001:db8::1", 1);
    let cells = source_limit.cells(&source_limit.source(&one.client));
    cells.iter().for_each(|cell| sketch.words()[*cell as usize].store(2, Ordering::Relaxed));
    let table =
        BucketTable { sketch: Some((sketch, source_limit)), ..BucketTable::in_memory(1, keys()).unwrap() };
    put(&table, &one, 1);
    assert_eq!(table.evict(&one, PACKETS), SlotEviction::Evicted);
    let words = table.sketch.as_ref().unwrap().0.words();
    assert!(cells.iter().all(|cell| words[*cell as usize].load(Ordering::Relaxed) == 1));
}
