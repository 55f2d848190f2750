//! The log of one container: what it writes becomes lines in the format of the container runtime interface.
//!
//! ```text
//!  2026-11-23T22:13:00.123456789Z stdout F a whole line
//!  2026-11-23T22:13:00.123456789Z stderr P the first part of a line that is too long for one
//! ```
//! *Guarantees*: at most [`FILES`] files of about [`FILE_BYTES`] each; at most [`LINE_BYTES`] of a stream wait in
//! memory; what cannot be written (a full disk) is dropped, never waited for.

use std::{
    fs::{File, OpenOptions, rename},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// Size at which a log file is put aside.
pub const FILE_BYTES: u64 = 10 << 20;
/// Files that are kept of one container, the one being written included.
pub const FILES: u32 = 3;
/// Longest text of one entry; a longer line is split. The limit that other runtimes use.
pub const LINE_BYTES: usize = 16 << 10;
/// How much formatted text is collected before it is written: one write for what one read brought, within reason.
const BATCH_BYTES: usize = 256 << 10;

/// The two streams of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Turns bytes into entries; the pure half.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not come. Never longer than [`LINE_BYTES`].
    open: Vec<u8>,
}

impl Lines {
    /// Takes `bytes` and calls `entry` with tag and text for each entry that they complete.
    fn take(&mut self, bytes: &[u8], mut entry: impl FnMut(char, &[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            while self.open.len() + text.len() > LINE_BYTES {
                let (now, later) = text.split_at(LINE_BYTES - self.open.len());
                self.open.extend_from_slice(now);
                entry('P', &self.open);
                self.open.clear();
                text = later;
            }
            self.open.extend_from_slice(text);
            if whole {
                entry('F', &self.open);
                self.open.clear();
            }
        }
        if self.open.is_empty() {
            self.open = Vec::new();
        }
    }

    /// Gives the beginning of a line whose end has not come, as an entry with this tag.
    fn finish(&mut self, tag: char, mut entry: impl FnMut(char, &[u8])) {
        if !self.open.is_empty() {
            entry(tag, &std::mem::take(&mut self.open));
        }
    }
}

/// The log files of one container.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    written: u64,
    stdout: Lines,
    stderr: Lines,
}

impl LogWriter {
    /// Opens the log at `path` to go on with it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let written = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, written, stdout: Lines::default(), stderr: Lines::default() })
    }

    /// Logs what a stream brought. `batch` is only lent, so that all logs share one buffer.
    pub fn take(&mut self, stream: Stream, bytes: &[u8], batch: &mut Vec<u8>) {
        let head = head(stream);
        let mut lines = std::mem::take(self.lines(stream));
        batch.clear();
        lines.take(bytes, |tag, text| {
            push(batch, &head, tag, text);
            if batch.len() >= BATCH_BYTES {
                self.write(batch);
                batch.clear();
            }
        });
        self.write(batch);
        *self.lines(stream) = lines;
    }

    /// Logs last lines that have no end.
    pub fn finish(&mut self) {
        self.log_open('F');
    }

    /// Logs beginnings of lines: somebody else will log the rest of them.
    pub fn hand_over(&mut self) {
        self.log_open('P');
    }

    fn log_open(&mut self, tag: char) {
        let mut batch = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let head = head(stream);
            let mut lines = std::mem::take(self.lines(stream));
            lines.finish(tag, |tag, text| push(&mut batch, &head, tag, text));
        }
        self.write(&batch);
    }

    fn lines(&mut self, stream: Stream) -> &mut Lines {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn write(&mut self, batch: &[u8]) {
        if batch.is_empty() {
            return;
        }
        // A full disk must not stop the container: the text is lost, and later text may fit again.
        if self.file.write_all(batch).is_ok() {
            self.written += batch.len() as u64;
        }
        if self.written >= FILE_BYTES {
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        for number in (1..FILES).rev() {
            let _ = rename(rotated(&self.path, number - 1), rotated(&self.path, number));
        }
        if let Ok(file) = open(&self.path) {
            self.file = file;
            self.written = 0;
        }
    }
}

/// Path of the file that is `number` rotations old; 0 is the one being written.
#[must_use]
pub fn rotated(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn head(stream: Stream) -> String {
    format!("{:.9} {} ", Timestamp::now(), stream.name())
}

fn push(batch: &mut Vec<u8>, head: &str, tag: char, text: &[u8]) {
    batch.extend_from_slice(head.as_bytes());
    batch.push(tag as u8);
    batch.push(b' ');
    batch.extend_from_slice(text);
    batch.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(chunks: &[&[u8]]) -> Vec<(char, usize)> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            lines.take(chunk, |tag, text| seen.push((tag, text.len())));
        }
        lines.finish('F', |tag, text| seen.push((tag, text.len())));
        seen
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(entries(&[b"one\ntw", b"o\n", b"\n", b"end"]), [('F', 3), ('F', 3), ('F', 0), ('F', 3)]);
    }

    #[test]
    fn line_longer_than_the_limit_is_split_and_marked() {
        let long = vec![b'x'; 2 * LINE_BYTES + 5];
        assert_eq!(entries(&[&long, b"\n"]), [('P', LINE_BYTES), ('P', LINE_BYTES), ('F', 5)]);
        let exact = vec![b'x'; LINE_BYTES];
        assert_eq!(entries(&[&exact, b"\n"]), [('F', LINE_BYTES)]);
    }

    #[test]
    fn entry_has_time_stream_tag_and_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(&path).unwrap();
        log.take(Stream::Stderr, b"\x1b[31mred\0\n", &mut Vec::new());
        let text = std::fs::read_to_string(&path).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-23T22:13:00.123456789Z".len(), "{time}");
        assert!(time.parse::<Timestamp>().is_ok());
        assert_eq!(rest, "stderr F \x1b[31mred\0\n");
    }

    #[test]
    fn line_that_another_process_completes_is_one_line_in_two_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(&path).unwrap();
        log.take(Stream::Stdout, b"whole\nbegun", &mut Vec::new());
        log.hand_over();
        let mut other = LogWriter::open(&path).unwrap();
        other.take(Stream::Stdout, b" and ended\n", &mut Vec::new());
        let text = std::fs::read_to_string(&path).unwrap();
        let entries: Vec<&str> =
            text.lines().filter_map(|line| line.split_once(' ')).map(|(_, e)| e).collect();
        assert_eq!(entries, ["stdout F whole", "stdout P begun", "stdout F  and ended"]);
    }

    #[test]
    fn log_never_takes_more_than_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogWriter::open(&path).unwrap();
        let mut batch = Vec::new();
        let line = [vec![b'y'; 60_000], vec![b'\n']].concat();
        for _ in 0..800 {
            log.take(Stream::Stdout, &line, &mut batch);
        }
        let sizes: Vec<u64> =
            (0..=FILES).map_while(|n| rotated(&path, n).metadata().ok()).map(|m| m.len()).collect();
        assert_eq!(sizes.len(), FILES as usize, "{sizes:?}");
        assert!(
            sizes.iter().all(|size| *size <= FILE_BYTES + BATCH_BYTES as u64 + LINE_BYTES as u64),
            "{sizes:?}"
        );
        assert!(batch.capacity() <= 2 * BATCH_BYTES);
    }
}
