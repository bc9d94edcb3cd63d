//! The lines of a log, read by several threads and handed on in their order.
//!
//! One thread reads and unpacks the file and cuts it into blocks of whole lines; others read the lines of a block;
//! the caller's thread takes the blocks in their order. There are never more than [`BLOCKS`] blocks between the
//! first and the last of them, so that memory does not grow with the file.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read},
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use super::{Bad, Fault, Format, LONGEST, Line, Log, LogError, Reading};

/// Bytes of a block, but for its last line.
const BLOCK: usize = 256 * 1024;

/// Most blocks between the file and the caller.
const BLOCKS: usize = 16;

/// Most threads that read lines.
const READERS: usize = 8;

/// A part of a log.
struct Block {
    /// Its place among the blocks, from 0.
    number: u64,
    /// The number of its first line, from 1.
    first: u64,
    lines: Vec<u8>,
    /// Bytes of the file that were read by then, as it is on the disk.
    position: u64,
}

/// What came of a block.
struct Parsed {
    number: u64,
    lines: Vec<Result<Line, (u64, Fault)>>,
    position: u64,
}

/// Hands on what comes of each line of `log`, in their order, with the bytes of the file that were read by then.
///
/// # Errors
/// The log cannot be read to its end. A line that cannot be read is handed on as [`LogError::Line`].
pub fn read_lines(
    mut log: Log<'_>,
    mut hand_on: impl FnMut(Result<Line, LogError>, u64),
) -> Result<u64, LogError> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    if processors > 1
        && let Some(format) = log.format.of_any_line()
    {
        return with_readers(log, &format, processors.min(READERS), hand_on);
    }
    loop {
        let position = log.position();
        match log.next_line() {
            Ok(Some(line)) => hand_on(Ok(line), position),
            Ok(None) => return Ok(log.position()),
            Err(fault @ LogError::Line { .. }) => hand_on(Err(fault), position),
            Err(damage) => return Err(damage),
        }
    }
}

fn with_readers(
    mut log: Log<'_>,
    format: &Format,
    readers: usize,
    mut hand_on: impl FnMut(Result<Line, LogError>, u64),
) -> Result<u64, LogError> {
    let (path, reading) = (log.path.clone(), log.reading);
    // A permit for each block on its way: taken by the file's thread, given back by the caller's.
    let (permits, permitted) = sync_channel(BLOCKS);
    let (blocks, cut) = sync_channel::<Block>(BLOCKS);
    let (results, parsed) = sync_channel::<Parsed>(BLOCKS);
    let cut = Mutex::new(cut);
    thread::scope(|scope| {
        let cutter = scope.spawn(move || log.cut(&permits, &blocks));
        for _ in 0..readers {
            let (Some(format), results, cut) = (format.of_any_line(), results.clone(), &cut) else {
                continue;
            };
            scope.spawn(move || parse(format, reading, cut, &results));
        }
        drop(results);
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        for Parsed { number, lines, position } in parsed {
            waiting.insert(number, (lines, position));
            while let Some((lines, position)) = waiting.remove(&next) {
                next += 1;
                for line in lines {
                    let line =
                        line.map_err(|(line, fault)| LogError::Line { path: path.clone(), line, fault });
                    hand_on(line, position);
                }
                // The file's thread may have ended.
                let _ = permitted.try_recv();
            }
        }
        // Without a permit the file's thread ends, whatever became of the others.
        drop(permitted);
        match cutter.join() {
            Ok(Ok(position)) => Ok(position),
            Ok(Err(source)) => Err(LogError::File { path, source }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads the lines of one block after the other.
fn parse(
    mut format: Format,
    reading: Reading<'_>,
    cut: &Mutex<Receiver<Block>>,
    results: &SyncSender<Parsed>,
) {
    loop {
        // A statement of its own: the others may wait for a block while this one is read.
        let block = cut.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Block { number, first, lines: text, position }) = block else { return };
        let mut lines = Vec::with_capacity(text.len() / 512);
        for (line, text) in (first..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            match format.read(text, &reading) {
                Ok(None) => {}
                Ok(Some(found)) => lines.push(Ok(found)),
                Err(Bad::Line(fault)) => lines.push(Err((line, fault))),
                Err(Bad::Header(found)) => lines.push(Err((line, Fault::new(1, "", found)))),
            }
        }
        if results.send(Parsed { number, lines, position }).is_err() {
            return;
        }
    }
}

impl Log<'_> {
    /// Cuts what is left of the file into blocks; returns the bytes of it that were read.
    fn cut(&mut self, permits: &SyncSender<()>, blocks: &SyncSender<Block>) -> io::Result<u64> {
        let (mut number, mut first) = (0, self.number + 1);
        loop {
            let mut lines = Vec::with_capacity(BLOCK + BLOCK / 8);
            let found = self.fill_block(&mut lines);
            if found.is_err() {
                // What stands before the damage, without the line that it cuts.
                lines.truncate(memchr::memrchr(b'\n', &lines).map_or(0, |end| end + 1));
            }
            let count = memchr::memchr_iter(b'\n', &lines).count() as u64;
            let ended = lines.is_empty() || found.is_err();
            if !lines.is_empty() {
                let block = Block { number, first, lines, position: self.position() };
                if permits.send(()).is_err() || blocks.send(block).is_err() {
                    break;
                }
            }
            found?;
            if ended {
                break;
            }
            (number, first) = (number + 1, first + count);
        }
        Ok(self.position())
    }

    /// Reads whole lines; of one that is too long so much that it is found so, and its end.
    fn fill_block(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        (&mut self.contents).take(BLOCK as u64).read_to_end(lines)?;
        if lines.last().is_none_or(|last| *last == b'\n') {
            return Ok(());
        }
        // The block ends within a line.
        let begun = lines.iter().rev().take_while(|byte| **byte != b'\n').count() as u64;
        (&mut self.contents).take(LONGEST - begun).read_until(b'\n', lines)?;
        let long = lines.iter().rev().take(LONGEST as usize).all(|byte| *byte != b'\n');
        if long && self.contents.skip_until(b'\n')? > 0 {
            lines.push(b'\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        path::{Path, PathBuf},
    };

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::engine::settings::{Service, Services};

    /// A flow of a client, by number.
    fn flow(n: usize) -> String {
        format!(
            r#"{{"timestamp":"2026-11-21T03:31:00.000000+0000","event_type":"flow","src_ip":"10.0.{}.{}","src_port":4000,"dest_ip":"9.9.9.9","dest_port":25,"proto":"TCP","flow":{{"pkts_toserver":{n},"bytes_toserver":0,"pkts_toclient":0,"bytes_toclient":0,"start":"2026-11-21T03:31:00.000000+0000","end":"2026-11-21T03:31:01.000000+0000"}}}}"#,
            n / 250 % 250,
            n % 250
        )
    }

    /// Lines of every kind, some blocks of them.
    fn contents() -> Vec<u8> {
        let mut text = Vec::new();
        for n in 0..6_000 {
            match n % 500 {
                17 => text.extend(b"\n \r\n"),
                41 => text.extend(b"{\"event_type\":\"flow\",\"src_ip\":7}\n"),
                63 => text.extend(b"{\"event_type\":\"dns\"}\n"),
                99 if n < 1_000 => {
                    text.extend(vec![b'x'; LONGEST as usize - 1 + n / 100]);
                    text.push(b'\n');
                }
                _ => text.extend(flow(n).into_bytes().into_iter().chain(*b"\r\n")),
            }
        }
        text.extend(flow(7).into_bytes());
        text
    }

    fn write(name: &str, contents: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mailflow-{name}-{}", std::process::id()));
        std::fs::write(&path, contents).unwrap();
        path
    }

    fn all(path: &Path, services: &Services, readers: usize) -> Vec<String> {
        let reading = Reading { services, l2_overhead: None, columns: &[] };
        let mut log = Log::open(path, reading).unwrap();
        let mut found = Vec::new();
        let mut note = |line: Result<Line, LogError>| {
            found.push(match line {
                Ok(line) => format!("{line:?}"),
                Err(error) => error.to_string(),
            })
        };
        let end = if readers == 0 {
            loop {
                match log.next_line() {
                    Ok(Some(line)) => note(Ok(line)),
                    Ok(None) => break None,
                    Err(fault @ LogError::Line { .. }) => note(Err(fault)),
                    Err(damage) => break Some(damage.to_string()),
                }
            }
        } else {
            let format = log.format.of_any_line().unwrap();
            with_readers(log, &format, readers, |line, _| note(line)).err().map(|damage| damage.to_string())
        };
        found.push(format!("{end:?}"));
        found
    }

    #[test]
    fn several_threads_find_what_one_finds_in_its_order() {
        let services = Services::from([(25, Service::Smtp)]);
        let plain = contents();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&plain).unwrap();
        let packed = packed.finish().unwrap();
        let damaged = &packed[..packed.len() / 3];
        for (name, contents) in [("plain", &plain[..]), ("packed", &packed), ("damaged", damaged)] {
            let path = write(name, contents);
            let expected = all(&path, &services, 0);
            assert!(expected.len() > 500, "{name}: {} lines", expected.len());
            for readers in [1, 3] {
                let found = all(&path, &services, readers);
                let differs = expected.iter().zip(&found).position(|(one, other)| one != other);
                assert_eq!((differs, found.len()), (None, expected.len()), "{name}, {readers} readers");
            }
            std::fs::remove_file(path).unwrap();
        }
    }
}
