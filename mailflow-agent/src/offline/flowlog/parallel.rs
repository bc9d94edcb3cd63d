//! Reads the lines of a log in several threads.
//!
//! One thread reads and decompresses the file, and cuts it into blocks of whole lines. Parser threads read
//! the lines of the blocks, and collect their records. The thread of the caller gets the counts and errors
//! of the blocks, in order. At most [`MAX_BLOCKS`] blocks are in progress, so that memory does not grow with
//! the file.

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

use super::{
    FlowLog, LineError, LineOutcome, LogError, ReadContext, SkipReason,
    log::{LineFailure, LogFormat, MAX_LINE_BYTES},
    timeline::{RecordSorter, SortBuffer},
};

/// Size of a block, without the rest of its last line.
const BLOCK_BYTES: usize = 256 * 1024;

/// Largest number of blocks in progress, between the file and the caller.
const MAX_BLOCKS: usize = 16;

/// Largest number of parser threads.
const MAX_PARSER_THREADS: usize = 8;

/// Part of a log.
struct Block {
    /// Index of the block, from 0.
    number: u64,
    /// Number of its first line, from 1.
    first: u64,
    lines: Vec<u8>,
    /// Format, with the headers before the block.
    format: LogFormat,
    /// Bytes of the file that were read up to this block, before decompression.
    position: u64,
}

/// Counts and errors of a block. Its records are in the sorter.
#[derive(Debug, Default)]
pub struct BlockOutcome {
    /// Lines with a record.
    pub records: u64,
    /// Lines of other event types than `one_way`, or of other logs than those of connections.
    pub other_events: u64,
    /// `netflow` events of Suricata, which hold one direction each.
    pub one_way: u64,
    /// Flows that the agent would not count.
    pub not_watched: u64,
    /// Lines that cannot be read, with their numbers.
    pub errors: Vec<(u64, LineError)>,
    /// Bytes of the file that were read up to this block, before decompression.
    pub position: u64,
}

/// Reason why a log is not read to its end.
enum CutError {
    File(io::Error),
    /// The format changes to one that is not supported.
    Format(String),
}

impl From<io::Error> for CutError {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// Adds the records of `log` to `sorter`, and calls `emit` with the outcome of each block, in order. Ends
/// early if `emit` returns false. Returns the number of bytes of the file that were read.
///
/// # Errors
/// Fails if the log cannot be read to its end.
pub fn read_lines(
    log: FlowLog<'_>,
    sorter: &RecordSorter,
    emit: impl FnMut(BlockOutcome) -> bool,
) -> Result<u64, LogError> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    read_with_threads(log, || sorter.buffer(), processors.min(MAX_PARSER_THREADS), emit)
}

/// Collector of the records that a parser thread reads.
trait CollectRecords {
    fn push(&mut self, record: super::LogRecord);
}

impl CollectRecords for SortBuffer<'_> {
    fn push(&mut self, record: super::LogRecord) {
        SortBuffer::push(self, record);
    }
}

fn read_with_threads<C: CollectRecords + Send>(
    mut log: FlowLog<'_>,
    buffer: impl Fn() -> C,
    threads: usize,
    mut emit: impl FnMut(BlockOutcome) -> bool,
) -> Result<u64, LogError> {
    let (path, context) = (log.path.clone(), log.context);
    // A permit for each block in progress: taken by the thread of the file, returned by that of the caller.
    let (permits, permits_rx) = sync_channel(MAX_BLOCKS);
    let (blocks, blocks_to_parse) = sync_channel::<Block>(MAX_BLOCKS);
    let (results, parsed_blocks) = sync_channel::<(u64, BlockOutcome)>(MAX_BLOCKS);
    let (spent_tx, spent_rx) = sync_channel::<Vec<u8>>(MAX_BLOCKS);
    let blocks_to_parse = Mutex::new(blocks_to_parse);
    thread::scope(|scope| {
        let cutter = scope.spawn(move || log.cut_blocks(&permits, &blocks, &spent_rx));
        for _ in 0..threads {
            let (buffer, results, spent_tx, blocks_to_parse) =
                (buffer(), results.clone(), spent_tx.clone(), &blocks_to_parse);
            scope.spawn(move || parse(buffer, context, blocks_to_parse, &results, &spent_tx));
        }
        drop((results, spent_tx));
        let (mut out_of_order, mut next) = (BTreeMap::new(), 0);
        'blocks: for (number, outcome) in &parsed_blocks {
            out_of_order.insert(number, outcome);
            while let Some(outcome) = out_of_order.remove(&next) {
                next += 1;
                if !emit(outcome) {
                    break 'blocks;
                }
                // The thread of the file may have ended.
                let _ = permits_rx.try_recv();
            }
        }
        // The thread of the file ends when it gets no permit, and the parser threads when nothing receives
        // their results.
        drop((permits_rx, parsed_blocks));
        match cutter.join() {
            Ok(Ok(position)) => Ok(position),
            Ok(Err(CutError::File(source))) => Err(LogError::File { path, source }),
            Ok(Err(CutError::Format(found))) => Err(LogError::Format { path, found }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Parses blocks until there are no more.
fn parse(
    mut buffer: impl CollectRecords,
    context: ReadContext<'_>,
    blocks_to_parse: &Mutex<Receiver<Block>>,
    results: &SyncSender<(u64, BlockOutcome)>,
    spent_tx: &SyncSender<Vec<u8>>,
) {
    loop {
        // A separate statement, so that the lock is released while the block is parsed.
        let block = blocks_to_parse.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Block { number, first, lines, mut format, position }) = block else { return };
        let mut outcome = BlockOutcome { position, ..BlockOutcome::default() };
        for (line, text) in (first..).zip(LineIter(&lines)) {
            match format.read(text, &context) {
                Ok(None) => {}
                Ok(Some(LineOutcome::Record(record))) => {
                    outcome.records += 1;
                    buffer.push(record);
                }
                Ok(Some(LineOutcome::Skipped(SkipReason::OtherEvent))) => outcome.other_events += 1,
                Ok(Some(LineOutcome::Skipped(SkipReason::OneWay))) => outcome.one_way += 1,
                Ok(Some(LineOutcome::Skipped(SkipReason::NotWatched))) => outcome.not_watched += 1,
                Err(LineFailure::Line(error)) => outcome.errors.push((line, error)),
                // Blocks are cut before such a header, so this one is an error of a line.
                Err(LineFailure::Header(header_error)) => {
                    outcome.errors.push((line, LineError::new(1, "", header_error)))
                }
            }
        }
        // The thread of the file may have ended, or have enough buffers.
        let _ = spent_tx.try_send(lines);
        if results.send((number, outcome)).is_err() {
            return;
        }
    }
}

/// Iterator over lines, with their line ends.
struct LineIter<'a>(&'a [u8]);

impl<'a> Iterator for LineIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.0).map_or(self.0.len(), |end| end + 1);
        let (line, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(line)
    }
}

impl FlowLog<'_> {
    /// Cuts the rest of the file into blocks. Returns the number of bytes of the file that were read.
    fn cut_blocks(
        &mut self,
        permits: &SyncSender<()>,
        blocks: &SyncSender<Block>,
        spent_rx: &Receiver<Vec<u8>>,
    ) -> Result<u64, CutError> {
        let (mut number, mut first) = (0, self.number + 1);
        loop {
            let mut lines =
                spent_rx.try_recv().unwrap_or_else(|_| Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 8));
            lines.clear();
            let read = self.fill_block(&mut lines);
            if read.is_err() {
                // A line with damage in it is left out.
                let whole = memchr::memrchr(b'\n', &lines).map_or(0, |end| end + 1);
                lines.truncate(whole);
            }
            let ended = lines.is_empty();
            let format = self.format.clone();
            let header = self.format.skip_lines(&mut lines, &self.context);
            let count = memchr::memchr_iter(b'\n', &lines).count() as u64;
            if !lines.is_empty() {
                let block = Block { number, first, lines, format, position: self.position() };
                if permits.send(()).is_err() || blocks.send(block).is_err() {
                    break;
                }
            }
            read?;
            header.map_err(CutError::Format)?;
            if ended {
                break;
            }
            (number, first) = (number + 1, first + count);
        }
        Ok(self.position())
    }

    /// Reads whole lines. Keeps as much of a line that is too long as shows its length, and skips the rest.
    fn fill_block(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        (&mut self.contents).take(BLOCK_BYTES as u64).read_to_end(lines)?;
        if lines.last().is_none_or(|last| *last == b'\n') {
            return Ok(());
        }
        // The block ends within a line.
        let line_bytes = lines.iter().rev().take_while(|byte| **byte != b'\n').count() as u64;
        (&mut self.contents).take(MAX_LINE_BYTES - line_bytes).read_until(b'\n', lines)?;
        let long = lines.iter().rev().take(MAX_LINE_BYTES as usize).all(|byte| *byte != b'\n');
        if long && self.contents.skip_until(b'\n')? > 0 {
            lines.push(b'\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::PathBuf};

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::offline::flowlog::LogRecord;
    use mailflow_engine::settings::{Service, Services};

    /// Returns the flow line of a client, by number.
    fn flow(n: usize) -> String {
        format!(
            r#"{{"timestamp":"2026-11-21T03:31:00.000000+0000","event_type":"flow","src_ip":"10.0.{}.{}","src_port":4000,"dest_ip":"9.9.9.9","dest_port":25,"proto":"TCP","flow":{{"pkts_toserver":{n},"bytes_toserver":{n}00,"pkts_toclient":0,"bytes_toclient":0,"start":"2026-11-21T03:31:00.000000+0000","end":"2026-11-21T03:31:01.000000+0000"}}}}"#,
            n / 250 % 250,
            n % 250
        )
    }

    /// Returns lines of every type, a few blocks of them.
    fn contents() -> Vec<u8> {
        let mut text = Vec::new();
        for n in 0..6_000 {
            match n % 500 {
                17 => text.extend(b"\n \r\n"),
                41 => text.extend(b"{\"event_type\":\"flow\",\"src_ip\":7}\n"),
                63 => text.extend(b"{\"event_type\":\"dns\"}\n"),
                99 if n < 1_000 => {
                    text.extend(vec![b'x'; MAX_LINE_BYTES as usize - 1 + n / 100]);
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

    /// Records of all threads, in no order.
    struct Collected<'a>(&'a Mutex<Vec<String>>);

    impl CollectRecords for Collected<'_> {
        fn push(&mut self, record: LogRecord) {
            self.0.lock().unwrap().push(format!("{record:?}"));
        }
    }

    /// Outcome of a whole log, with sorted records.
    #[derive(Debug, Default, PartialEq)]
    struct All {
        records: Vec<String>,
        errors: Vec<(u64, LineError)>,
        /// Other events, one-way events, and flows that are not watched.
        skipped: [u64; 3],
        damage: Option<String>,
    }

    fn by_one(mut log: FlowLog<'_>) -> All {
        let mut all = All::default();
        loop {
            match log.next_line() {
                Ok(Some(LineOutcome::Record(record))) => all.records.push(format!("{record:?}")),
                Ok(Some(LineOutcome::Skipped(skipped))) => {
                    all.skipped[match skipped {
                        SkipReason::OtherEvent => 0,
                        SkipReason::OneWay => 1,
                        SkipReason::NotWatched => 2,
                    }] += 1;
                }
                Ok(None) => break,
                Err(LogError::Line { line, error, .. }) => all.errors.push((line, error)),
                Err(damage) => all.damage = Some(damage.to_string()),
            }
        }
        all.records.sort();
        all
    }

    fn by_several(log: FlowLog<'_>, threads: usize) -> All {
        let (mut all, collected, mut records) = (All::default(), Mutex::default(), 0);
        let end = read_with_threads(
            log,
            || Collected(&collected),
            threads,
            |outcome| {
                records += outcome.records as usize;
                all.errors.extend(outcome.errors);
                let skipped = [outcome.other_events, outcome.one_way, outcome.not_watched];
                all.skipped.iter_mut().zip(skipped).for_each(|(sum, number)| *sum += number);
                true
            },
        );
        all.damage = end.err().map(|damage| damage.to_string());
        all.records = collected.into_inner().unwrap();
        all.records.sort();
        assert_eq!(all.records.len(), records);
        all
    }

    /// Reads a log with one thread and with several. Returns the outcome, which must be equal.
    fn read(name: &str, contents: &[u8]) -> All {
        let services = Services::from([(25, Service::Smtp)]);
        let context = ReadContext { services: &services, l2_overhead: None, columns: &[] };
        let path = write(name, contents);
        let expected = by_one(FlowLog::open(&path, context).unwrap());
        for threads in [1, 3] {
            let outcome = by_several(FlowLog::open(&path, context).unwrap(), threads);
            let differs = expected.records.iter().zip(&outcome.records).position(|(one, other)| one != other);
            assert_eq!((differs, outcome.records.len()), (None, expected.records.len()), "{name}");
            assert!(
                outcome == expected,
                "{name}, {threads} readers: {:?}, {:?}",
                outcome.damage,
                expected.damage
            );
        }
        std::fs::remove_file(path).unwrap();
        expected
    }

    #[test]
    fn several_threads_read_what_one_reads() {
        let plain = contents();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&plain).unwrap();
        let packed = packed.finish().unwrap();
        let damaged = &packed[..packed.len() / 3];
        for (name, contents) in [("plain", &plain[..]), ("packed", &packed), ("damaged", damaged)] {
            let all = read(name, contents);
            assert!(all.records.len() > 500 && all.errors.len() + all.skipped[0] as usize > 2, "{name}");
            assert_eq!(all.damage.is_some(), name == "damaged");
        }
    }

    /// Returns columns with a header, optionally in another order.
    fn columns(first: usize, lines: usize, swapped: bool) -> String {
        let names = if swapped { ["id.resp_p", "proto"] } else { ["proto", "id.resp_p"] };
        let mut text = format!(
            "\u{feff}#separator \\x09\n#path\tconn\n#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\t{}\n",
            names.join("\t")
        );
        for n in first..first + lines {
            let port = if n % 100 == 7 { "x" } else { "25" };
            let values = if swapped { [port, "tcp"] } else { ["tcp", port] };
            text.push_str(&format!(
                "{}.5\t10.0.{}.{}\t4000\t9.9.9.9\t{}\n",
                1_700_000_000 + n,
                n / 250 % 250,
                n % 250,
                values.join("\t")
            ));
        }
        text
    }

    #[test]
    fn several_threads_read_columns_by_the_last_header() {
        let log = |buffers: &[&str]| buffers.concat().into_bytes();
        let dns = "#separator \\x09\n#path\tdns\n#fields\tts\tquery\n1\tone\n2\ttwo\n";
        let (one, other) = (columns(0, 20_000, false), columns(20_000, 20_000, true));
        // 1.8 MB: a few blocks.
        let all = read("columns", &log(&[&one, dns, &other, "#close\n"]));
        assert_eq!((all.records.len(), all.errors.len(), all.skipped[0]), (39_600, 400, 2));
        let all = read("columns-bad", &log(&[&one, "#path\tconn\n#fields\tts\n", &other]));
        assert_eq!(all.records.len(), 19_800);
        assert!(all.damage.unwrap().contains("without the column id.orig_h"));
        // Another log is an error only before the first line of values. Blank lines are no values.
        for (name, before) in
            [("columns-none", "\n \r\n"), ("columns-some", "1\t2\n"), ("columns-long", "\u{ff}\n")]
        {
            let begin = "#fields\tts\n".replace(
                "ts",
                &["ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto"].join("\t"),
            );
            let all = read(name, &log(&[&begin, before, dns, &other]));
            assert_eq!(all.damage.is_some(), name == "columns-none", "{name}");
        }
    }
}
