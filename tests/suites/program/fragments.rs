//! Packets that come in fragments.

use mailflow_common::Reason;
use mailflow_tests::frame::{FrameBuilder, Transport, flag::*, fragmented};

use crate::{BOTH, CLIENT, CLIENT6, LoadOptions, SERVER, SERVER6, down, load_with, options, run};

#[test]
fn fragments_belong_to_the_flow_of_their_first_one() {
    for program in BOTH {
        for (client, server) in [(CLIENT, SERVER), (CLIENT6, SERVER6)] {
            let fragments = fragmented(client, server, 7);
            let bytes: u64 = fragments.iter().map(FrameBuilder::ip_bytes).sum();
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]] {
                let frames = order.map(|index| fragments[index].clone());
                let (flows, totals) = run(program, &frames);
                assert_eq!(flows.len(), 1, "{program} {order:?}");
                assert_eq!((flows[0].up.packets, flows[0].up.bytes), (3, bytes), "{program} {order:?}");
                assert_eq!((flows[0].up.payload, flows[0].up.data_packets), (1500, 3), "{program} {order:?}");
                assert_eq!((totals.up.packets, totals.up.bytes), (3, bytes));
                assert_eq!(totals.reason(Reason::Fragment), 0);
            }
        }
    }
}

#[test]
fn a_first_fragment_that_ends_amid_the_header_is_its_flows() {
    let fragments = fragmented(CLIENT, SERVER, 7);
    // Ports and sequence number (RFC 1858, 3), then the flags.
    let tiny = fragments[0].clone().with(|frame| {
        frame.transport = Transport::Other(6);
        frame.payload = [&40_000_u16.to_be_bytes()[..], &25_u16.to_be_bytes(), &[0, 0, 0, 1]].concat();
    });
    let rest = fragments[1].clone().with(|frame| (frame.fragment, frame.payload) = (0x2001, vec![0; 24]));
    let frames = [tiny, rest, fragments[2].clone()];
    let bytes: u64 = frames.iter().map(FrameBuilder::ip_bytes).sum();
    for program in BOTH {
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
            let (flows, totals) = run(program, &order.map(|index| frames[index].clone()));
            assert_eq!(flows.len(), 1, "{program} {order:?}");
            assert_eq!((flows[0].up.packets, flows[0].up.bytes), (3, bytes), "{program} {order:?}");
            assert_eq!((totals.reason(Reason::Fragment), totals.reason(Reason::Truncated)), (0, 0));
        }
    }
}

#[test]
fn a_message_in_fragments_is_one_in_whatever_order_they_come() {
    let fragments = fragmented(CLIENT, SERVER, 7);
    let [greeting, answer] = ["220 mx\r\n", "250 Ok\r\n"].map(|text| down(ACK).payload(text));
    // Two of the three pieces, alone too small for a message.
    let small = |index: usize| fragments[index].clone().with(|frame| frame.payload.truncate(160));
    for program in BOTH {
        for order in [[0, 1], [1, 0]] {
            let frames = [greeting.clone(), small(order[0]), small(order[1]), answer.clone()];
            let (flows, _) = run(program, &frames);
            assert_eq!((flows[0].up.payload, flows[0].messages), (320, 1), "{program} {order:?}");
        }
    }
}

#[test]
fn fragments_of_others_traffic_are_others_traffic() {
    let options = LoadOptions { local_only: true, ..options() };
    let forwarded = {
        let mut context = [0; 192];
        context[36..40].copy_from_slice(&1_u32.to_ne_bytes());
        context
    };
    let out = fragmented(CLIENT, SERVER, 7);
    let back = fragmented(SERVER, CLIENT, 8);
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let kernel = load_with(&options);
        for index in order {
            kernel.run("tc_host_out", &out[index].build(), Some(&forwarded)).unwrap();
            kernel.run("tc_host_in", &back[index].build(), None).unwrap();
        }
        let totals = kernel.totals().unwrap();
        let counted = (totals.reason(Reason::NotLocal), totals.reason(Reason::Fragment));
        assert_eq!(counted, (6, 0), "{order:?}: none of it is lost");
    }
}

#[test]
fn fragments_of_other_packets_are_other_packets() {
    let mine = fragmented(CLIENT, SERVER, 7);
    let others = fragmented(CLIENT, "93.184.215.25:8025", 8);
    for program in BOTH {
        // Not watched, whichever comes first; and orphans stay orphans.
        let (flows, totals) =
            run(program, &[mine[0].clone(), others[1].clone(), others[0].clone(), others[2].clone()]);
        assert_eq!((flows.len(), flows[0].up.packets), (1, 1), "{program}");
        assert_eq!((totals.reason(Reason::NotWatched), totals.reason(Reason::Fragment)), (3, 0), "{program}");
        let (flows, totals) = run(program, &[mine[0].clone(), fragmented(CLIENT, SERVER, 9)[1].clone()]);
        assert_eq!((flows[0].up.packets, totals.reason(Reason::Fragment)), (1, 1), "{program}");
    }
    // Where the direction is another hook's, the fragments are too.
    let (flows, totals) = run("tc_lan_out", &mine);
    assert_eq!((flows.len(), totals.reason(Reason::NotWatched)), (0, 3));
}
