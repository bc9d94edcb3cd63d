//! Output of a replay: a progress bar on a terminal, and the kernel program's log on request.
//!
//! Loading the program needs root.

mailflow_test_support::needs_root!();

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use mailflow_test_support::{
    frame::{FrameBuilder, Transport, flag::SYN},
    lab::agent_binary,
};

/// Frames of the capture: enough to redraw the bar.
const FRAMES: u32 = 5_000;

/// Creates a temporary folder.
fn folder(test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mailflow-{test}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes a capture of frames, a thousand per second.
fn capture(folder: &Path, frames: impl Iterator<Item = Vec<u8>>) -> PathBuf {
    let mut bytes = Vec::new();
    // libpcap's format: magic, version 2.4, zone, accuracy, snaplen, Ethernet.
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for (number, frame) in (0_u32..).zip(frames) {
        let length = frame.len() as u32;
        for word in [1_700_000_000 + number / 1_000, number % 1_000 * 1_000, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    let path = folder.join("frames.pcap");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Opens a pseudoterminal: the side that a program writes to, and the side that displays it.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut shown, mut written) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes two descriptors and reads one struct, all alive through the call.
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
    // SAFETY: the call returned both descriptors, which have no other owner.
    unsafe { (OwnedFd::from_raw_fd(written), OwnedFd::from_raw_fd(shown)) }
}

/// Replays with standard error to `errors`; returns the lines of standard output.
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
    // Records of equal times come in any order.
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn progress_bar_is_only_on_terminal_and_separate_from_lines() {
    let folder = folder("terminal");
    let syn = |number| FrameBuilder::tcp(&format!("10.0.0.2:{}", 1_024 + number), "93.184.215.25:25", SYN);
    let capture = capture(&folder, (0..FRAMES).map(|number| syn(number).build()));

    let log = folder.join("log");
    let plain = replay(&capture, File::create(&log).unwrap());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("replayed") && !log.contains("frames/s"), "{log}");

    let (written, shown) = terminal();
    // The writing side has no other owner once the agent has ended, so that the reader ends.
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

#[test]
fn uncounted_packets_are_logged_on_request_with_rate_limit() {
    let folder = folder("kernel-log");
    let damaged = FrameBuilder::tcp("10.0.0.2:1024", "93.184.215.25:25", SYN).with(|frame| {
        if let Transport::Tcp { offset, .. } = &mut frame.transport {
            *offset = Some(4);
        }
    });
    let capture = capture(&folder, (0..FRAMES).map(|_| damaged.build()));
    let kernel_log_lines = |options: &str| {
        let log = folder.join("log");
        let status = Command::new(agent_binary().unwrap())
            .args(["replay", "--alerts", "off", "--flow-log", "off"])
            .args(options.split_whitespace())
            .arg(&capture)
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .stderr(File::create(&log).unwrap())
            .status()
            .unwrap();
        assert!(status.success());
        let log = std::fs::read_to_string(log).unwrap();
        log.lines().filter(|line| line.contains("kernel: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = kernel_log_lines("--kernel-log warn");
    let length = damaged.build().len();
    assert!(!lines.is_empty());
    for line in &lines {
        assert!(line.contains(&format!("WARN kernel: malformed: {length} bytes")), "{line}");
    }
    // Eight lines a second on each CPU.
    assert!(lines.len() < FRAMES as usize / 10, "{} lines", lines.len());
    assert_eq!(kernel_log_lines("--kernel-log error"), Vec::<String>::new(), "it is a warning");
    assert_eq!(kernel_log_lines(""), Vec::<String>::new(), "it is off by default");
    std::fs::remove_dir_all(folder).unwrap();
}
