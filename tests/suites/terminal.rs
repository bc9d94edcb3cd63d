//! What a replay shows on a terminal, and that it is shown nowhere else.
//!
//! Loading the program needs root.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mailflow_tests::{
    frame::{FrameBuilder, flag::SYN},
    lab::agent_binary,
};

/// Frames of the capture: enough for the bar to be drawn again.
const FRAMES: u32 = 5_000;

/// A capture of SYNs, each of a flow of its own.
fn capture(folder: &Path) -> PathBuf {
    let mut bytes = Vec::new();
    // libpcap's format: magic, version 2.4, zone, accuracy, snap length, Ethernet.
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for number in 0..FRAMES {
        let frame =
            FrameBuilder::tcp(&format!("10.0.0.2:{}", 1_024 + number), "93.184.215.25:25", SYN).build();
        let length = frame.len() as u32;
        for word in [1_700_000_000 + number / 1_000, number % 1_000, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    let path = folder.join("syns.pcap");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A terminal: the side a program writes to, and the side that shows it.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut shown, mut written) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: writes two descriptors and reads one struct, all alive through the call.
    let result = unsafe {
        libc::openpty(
            &raw mut shown,
            &raw mut written,
            std::ptr::null_mut(),
            std::ptr::null(),
            &raw const size,
        )
    };
    assert_eq!(result, 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: the call returned them and nobody else owns them.
    unsafe { (OwnedFd::from_raw_fd(written), OwnedFd::from_raw_fd(shown)) }
}

/// Replays with standard error going to `errors`; returns the lines that went to standard output.
fn replay(capture: &Path, errors: impl Into<Stdio>) -> Vec<String> {
    let output = Command::new(agent_binary().unwrap())
        .args(["replay", "--alerts", "off", "--flow-log", "-"])
        .arg(capture)
        .env_remove("RUST_LOG")
        .env("TERM", "xterm")
        .stderr(errors)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    // Records made at one moment come in any order.
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_bar_is_shown_on_a_terminal_only_and_never_among_the_lines() {
    let folder = std::env::temp_dir().join(format!("mailflow-terminal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let capture = capture(&folder);

    let log = folder.join("log");
    let plain = replay(&capture, File::create(&log).unwrap());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("replayed") && !log.contains("frames/s"), "{log}");

    let (written, shown) = terminal();
    // Nobody else holds the writing side when the agent has ended, so that reading comes to an end.
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut shown = File::from(shown);
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = shown.read(&mut buffer) {
            text.write_all(&buffer[..length]).unwrap();
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let lines = replay(&capture, written);
    let screen = reader.join().unwrap();
    assert!(screen.contains("frames/s"), "{screen:?}");
    assert!(screen.contains(&format!("{FRAMES} frames, ")), "{screen:?}");
    assert!(screen.contains("replayed"), "{screen:?}");
    assert_eq!(lines, plain, "the bar changes what is written to standard output");
    assert_eq!(lines.len(), FRAMES as usize);
    std::fs::remove_dir_all(folder).unwrap();
}
