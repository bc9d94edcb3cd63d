//! pcap and pcapng files.

use std::{collections::BTreeMap, path::Path};

use mailflow_agent::{
    offline::capture::{Capture, CaptureError, Frame},
    util::gzip_reader::MaybeGzip,
};

use crate::{budget::GZIP, pieces::Pieces};

/// Maximum growth of a frame in bytes: an Ethernet header replaces the link type's header.
const ETHERNET: usize = 14;
/// Minimum bytes before a frame in a file: pcap's record header, or pcapng's simple packet block.
const RECORD: usize = 16;
/// Bytes of a frame that a replay reads.
const HEAD: usize = 300;

/// Readable part of a capture.
#[derive(Debug, PartialEq)]
struct Found {
    frames: Vec<Frame>,
    skipped: BTreeMap<u32, u64>,
    /// Reason for an early end.
    error: Option<String>,
}

fn read(contents: Pieces) -> Found {
    let path = Path::new("capture");
    let packed = MaybeGzip::from_reader(contents).unwrap();
    let mut found = Found { frames: Vec::new(), skipped: BTreeMap::new(), error: None };
    let mut capture = match Capture::from_contents(path, packed) {
        Ok(capture) => capture,
        Err(error) => return Found { error: Some(error.to_string()), ..found },
    };
    loop {
        match capture.next_frame() {
            Ok(Some(frame)) => found.frames.push(frame),
            Ok(None) => break,
            Err(error) => {
                if let CaptureError::Damaged { frames, .. } = &error {
                    assert_eq!(*frames, found.frames.len() as u64 + capture.skipped());
                }
                found.error = Some(error.to_string());
                break;
            }
        }
    }
    found.skipped = capture.skipped_types().clone();
    found
}

/// Reads a capture whole, in pieces, truncated, and after writing it again.
pub(crate) fn run(data: &[u8]) {
    let packed = data.starts_with(&GZIP);
    let whole = read(Pieces::whole(data));
    // The number of bytes unpacked before the damage depends on the pieces.
    if !packed || whole.error.is_none() {
        assert_eq!(whole, read(Pieces::small(data)), "in pieces");
    }

    let bytes: usize = whole.frames.iter().map(|frame| frame.bytes.len()).sum();
    assert!(packed || bytes <= data.len() + ETHERNET * whole.frames.len(), "{bytes} bytes of frames");
    assert!(packed || whole.frames.len() <= data.len() / RECORD, "{} frames", whole.frames.len());
    for frame in &whole.frames {
        let head = frame.head(HEAD);
        assert!(head.starts_with(&frame.bytes[..frame.bytes.len().min(HEAD)]) && head.len() < HEAD + 20);
    }

    // The frames before the truncation are kept.
    let cut = read(Pieces::whole(&data[..data.len() / 2]));
    assert!(packed || whole.frames.starts_with(&cut.frames), "cut in half");

    let fits = |frame: &Frame| {
        u32::try_from(frame.length).is_ok() && frame.time / 1_000_000_000 <= u64::from(u32::MAX)
    };
    let frames: Vec<Frame> = whole.frames.into_iter().filter(fits).collect();
    let again = read(Pieces::whole(&written(&frames)));
    assert_eq!(again, Found { frames, skipped: BTreeMap::new(), error: None }, "written again");
}

/// Returns the frames as a pcap file with nanosecond timestamps.
fn written(frames: &[Frame]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut words = |words: &[u32], bytes: &[u8]| {
        file.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        file.extend(bytes);
    };
    words(&[0xa1b2_3c4d, 0x0002_0004, 0, 0, 0x0004_0000, 1], &[]);
    for Frame { time, bytes, length } in frames {
        let (seconds, nanos) = (time / 1_000_000_000, time % 1_000_000_000);
        words(&[seconds as u32, nanos as u32, bytes.len() as u32, *length as u32], bytes);
    }
    file
}
