//! Forms of pcap and pcapng files, and damaged files.

use std::{fs, io::Write, path::PathBuf};

use flate2::{Compression, write::GzEncoder};
use mailflow_agent::offline::capture::{Capture, CaptureError, Frame};
use mailflow_test_support::{
    frame::{FrameBuilder, flag::*},
    pcap,
    pcapng::{Order, Section},
};

const BEGIN: u64 = 1_700_000_000;
const NANOS: u64 = 1_000_000_000;
const ORDERS: [Order; 2] = [Order::Little, Order::Big];

fn frames() -> Vec<Vec<u8>> {
    let frame =
        |payload: &[u8]| FrameBuilder::tcp("10.20.0.2:40000", "93.184.215.25:25", ACK).payload(payload);
    [&b"EHLO a\r\n"[..], b"QUIT\r\n", b""].map(|payload| frame(payload).build()).to_vec()
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mailflow-files-{}-{name}", std::process::id()));
    fs::write(&path, bytes).unwrap();
    path
}

/// Returns the frames of a file, and the error that ended it early.
fn read(name: &str, bytes: &[u8]) -> (Vec<Frame>, Option<CaptureError>) {
    let path = file(name, bytes);
    let mut frames = Vec::new();
    let ended = Capture::open(&path).and_then(|mut capture| {
        while let Some(frame) = capture.next_frame()? {
            frames.push(frame);
        }
        assert_eq!(capture.skipped(), 0, "{name}");
        Ok(())
    });
    fs::remove_file(path).unwrap();
    (frames, ended.err())
}

/// Returns times and bytes of the frames of an undamaged file.
fn whole(name: &str, bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let (frames, damage) = read(name, bytes);
    assert!(damage.is_none(), "{name}: {damage:?}");
    frames.into_iter().map(|frame| (frame.time, frame.bytes)).collect()
}

#[test]
fn timestamps_are_read_in_every_resolution_and_byte_order() {
    for order in ORDERS {
        // Powers of ten, then of two: the latter are no powers of ten.
        for (exponent, units) in
            [(3, 1_000), (6, 1_000_000), (9, NANOS), (0x80, 1), (0x8a, 1 << 10), (0xa0, 1 << 32)]
        {
            for offset in [0, 1_000, -1_000_i64] {
                let section = Section::new(order);
                let options = [(9, vec![exponent]), (14, section.i64(offset))];
                let half = if units > 1 { NANOS / 2 } else { 0 };
                let time = BEGIN * units + units / 2;
                let bytes = section.interface(1, 0, &options).enhanced(0, time, &frames()[0]).build();
                let expected = BEGIN.checked_add_signed(offset).unwrap() * NANOS + half;
                assert_eq!(
                    whole("times", &bytes),
                    [(expected, frames()[0].clone())],
                    "{order:?}, unit {exponent:#x}, offset {offset}"
                );
            }
        }
    }
}

#[test]
fn packet_blocks_are_read_and_others_skipped() {
    let frames = frames();
    for order in ORDERS {
        let bytes = Section::new(order)
            .other(10, &[1; 12])
            .interface(1, 60, &[(2, b"eth0".to_vec())])
            .enhanced(0, BEGIN * 1_000_000, &frames[0])
            .other(5, &[0; 12])
            .packet(0, (BEGIN + 1) * 1_000_000, &frames[1])
            .other(0x8000_0001, b"whatever")
            .simple(&frames[0], 60)
            .build();
        let expected =
            [(BEGIN * NANOS, &frames[0][..]), ((BEGIN + 1) * NANOS, &frames[1]), (0, &frames[0][..60])];
        let found = whole("blocks", &bytes);
        assert!(found.iter().map(|(time, bytes)| (*time, &bytes[..])).eq(expected), "{order:?}: {found:?}");
    }
}

#[test]
fn section_resets_byte_order_and_interfaces() {
    let frames = frames();
    let first = Section::new(Order::Little).interface(1, 0, &[]).enhanced(0, 7, &frames[0]).build();
    let raw = &frames[1][14..];
    let second = Section::new(Order::Big).interface(101, 0, &[]).enhanced(0, 8, raw).build();
    let found = whole("sections", &[first, second].concat());
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].0, &found[0].1), (7_000, &frames[0]));
    assert_eq!((found[1].0, &found[1].1[14..]), (8_000, raw));
}

#[test]
fn truncated_gzip_capture_keeps_read_frames() {
    let stamped: Vec<_> = (0..).zip(frames()).collect();
    let path = file("packed", b"");
    pcap::write(&path, &stamped).unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::none());
    packed.write_all(&fs::read(&path).unwrap()).unwrap();
    let packed = packed.finish().unwrap();
    fs::remove_file(path).unwrap();
    // Uncompressed bytes are stored unchanged, followed by a trailer of eight bytes.
    for (cut, expected) in [(4, 3), (8 + 1, 2), (8 + 16 + 54 + 1, 1)] {
        let (frames, damage) = read("packed", &packed[..packed.len() - cut]);
        assert_eq!(frames.len(), expected, "{cut} bytes less");
        let damage = damage.unwrap().to_string();
        assert!(damage.contains(&format!("damaged after frame {expected}: ")), "{damage}");
    }
}

#[test]
fn file_without_capture_is_reported() {
    for (bytes, expected) in [
        (&b""[..], "neither pcap nor pcapng; it is empty"),
        (b"\xd4", "neither pcap nor pcapng; it begins with d4"),
        (b"hello world", "neither pcap nor pcapng; it begins with 68 65 6c 6c"),
        (b"\xd4\xc3\xb2\xa1\x02\0\x04\0", "damaged after frame 0: it ends within a record"),
        (b"\x0a\x0d\x0d\x0a\x1c\0\0\0\0\0\0\0", "unknown byte order"),
    ] {
        let (frames, damage) = read("none", bytes);
        let damage = damage.unwrap().to_string();
        assert!(frames.is_empty() && damage.contains(expected), "{damage}");
    }
}

#[test]
fn inconsistent_record_ends_file_with_offset() {
    let frames = frames();
    let section = || Section::new(Order::Little).interface(1, 0, &[]).enhanced(0, 7, &frames[0]);
    let length =
        |length: u32| [section().build(), 6_u32.to_le_bytes().to_vec(), length.to_le_bytes().to_vec()];
    for (bytes, expected) in [
        (section().enhanced(1, 7, &frames[0]).build(), "an interface that was not described"),
        (section().other(6, &[0; 8]).build(), "a block shorter than its fields"),
        (section().interface(1, 0, &[(9, vec![39])]).build(), "an impossible resolution"),
        (length(8).concat(), "a record of an impossible length"),
        (length(0x7fff_fff0).concat(), "a record of an impossible length"),
        (length(32).concat(), "it ends within a record"),
    ] {
        let (found, damage) = read("contradiction", &bytes);
        let damage = damage.unwrap().to_string();
        assert_eq!(found.len(), 1, "{damage}");
        assert!(damage.contains(expected), "{damage}, not {expected}");
    }
}
