//! Logs by stream: the lines that a container wrote, from its files on disk, and those that it goes on to write.
//!
//! The files are in the CRI form: `time stream tag text`. Rotation moves a file aside; whoever follows notices that
//! the file has another inode, reads the old one to its end, and goes on with the new one.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use model::api::DeletedInstanceView;
use proto::relay::RelayFailure;
use runtime::pod::{
    DeletedInstance, PodRuntime,
    shim::log::{FILES, rotated},
};

use super::{Stream, failure};

/// How often a followed log is looked at. People read no faster.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Most lines that `tail` may ask for: they are held until they are sent.
const MAX_TAIL: u32 = 100_000;
/// Bytes that are gathered before they are sent.
const BATCH: usize = 32 << 10;

/// What of a log is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) follow: bool,
    pub(super) tail: Option<u32>,
    /// Only lines from this time on.
    pub(super) since: Option<Timestamp>,
    /// The run before the present one.
    pub(super) previous: bool,
    pub(super) timestamps: bool,
}

/// Sends a container's log.
pub(super) async fn serve(
    pods: &PodRuntime,
    stream: &Stream,
    uid: &str,
    container: &str,
    view: View,
) -> Result<(), RelayFailure> {
    let not_here =
        || failure("no-log", "it has no log on its node: nothing of it has been started yet, or it is gone");
    let path = match pods.log_path(uid, container, u32::from(view.previous)) {
        Some(path) => path,
        None if view.previous && pods.log_path(uid, container, 0).is_some() => {
            return Err(failure("no-log", "it has no previous run: this container was not restarted"));
        }
        None => return Err(not_here()),
    };
    let failed = |error: io::Error| failure("log-unreadable", format!("its log cannot be read: {error}"));
    let mut current = Tail::begin(&path, stream, view).await.map_err(failed)?;
    if !view.follow {
        return Ok(());
    }
    loop {
        // Asked before the last look, so that no line is missed.
        let present = pods.growing_log(uid, container).await;
        current.go_on(stream, view.timestamps).await.map_err(failed)?;
        if let Some(next) = present.path.filter(|path| *path != current.path) {
            // It was started again: this run wrote its last line before.
            current = Tail::at(next);
            continue;
        }
        if !present.goes_on || stream.send.is_closed() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stream.send.closed() => return Ok(()),
        }
    }
}

/// Sends the instances that are gone and whose logs are here, as a JSON array.
pub(super) async fn list_deleted(pods: &PodRuntime, node: &str, stream: &Stream) -> Result<(), RelayFailure> {
    let view = |own: DeletedInstance| DeletedInstanceView {
        id: own.id,
        uid: own.uid,
        node: node.to_owned(),
        deleted_at: own.deleted_at,
        containers: own.containers,
    };
    let views: Vec<DeletedInstanceView> = pods.deleted().into_iter().map(view).collect();
    super::say(&views, stream).await
}

/// Sends the log of a container of an instance that is gone.
pub(super) async fn serve_deleted(
    pods: &PodRuntime,
    stream: &Stream,
    uid: &str,
    container: Option<&str>,
    view: View,
) -> Result<(), RelayFailure> {
    let path = pods.deleted_log(uid, container, u32::from(view.previous));
    let path = path.map_err(|why| failure("no-log", why))?;
    let failed = |error: io::Error| failure("log-unreadable", format!("its log cannot be read: {error}"));
    Tail::begin(&path, stream, view).await.map(drop).map_err(failed)
}

/// The end of a log that may still grow.
struct Tail {
    path: PathBuf,
    open: Option<(BufReader<File>, u64)>,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Tail {
    /// Stands at the beginning.
    const fn at(path: PathBuf) -> Self {
        Self { path, open: None, partial: Vec::new() }
    }

    /// Sends what is there already, and stands at its end.
    async fn begin(path: &Path, stream: &Stream, view: View) -> io::Result<Self> {
        let mut last: VecDeque<Vec<u8>> = VecDeque::new();
        let keep = view.tail.map(|lines| lines.min(MAX_TAIL) as usize);
        let mut batch = Vec::new();
        for number in (1..FILES).rev() {
            let Ok(file) = File::open(rotated(path, number)) else { continue };
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                if admits(view.since, &line) {
                    Self::keep_or_send(&mut last, keep, shown(&line, view.timestamps), &mut batch);
                }
                line.clear();
                Self::flush(stream, &mut batch, BATCH).await;
            }
        }
        let mut tail = Self::at(path.to_owned());
        while let Some(line) = tail.next_line()? {
            if admits(view.since, &line) {
                Self::keep_or_send(&mut last, keep, shown(&line, view.timestamps), &mut batch);
            }
            Self::flush(stream, &mut batch, BATCH).await;
        }
        batch.extend(last.into_iter().flatten());
        Self::flush(stream, &mut batch, 0).await;
        Ok(tail)
    }

    /// Sends what has been written since.
    async fn go_on(&mut self, stream: &Stream, timestamps: bool) -> io::Result<()> {
        let mut batch = Vec::new();
        while let Some(line) = self.next_line()? {
            batch.extend(shown(&line, timestamps));
            Self::flush(stream, &mut batch, BATCH).await;
        }
        Self::flush(stream, &mut batch, 0).await;
        Ok(())
    }

    fn keep_or_send(last: &mut VecDeque<Vec<u8>>, keep: Option<usize>, line: Vec<u8>, batch: &mut Vec<u8>) {
        match keep {
            Some(0) => {}
            Some(lines) => {
                if last.len() == lines {
                    last.pop_front();
                }
                last.push_back(line);
            }
            None => batch.extend(line),
        }
    }

    async fn flush(stream: &Stream, batch: &mut Vec<u8>, above: usize) {
        if batch.len() > above {
            // If the user has gone, the loop above notices.
            let _ = stream.data(batch).await;
            batch.clear();
        }
    }

    /// The next whole line, if it has been written.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some((reader, inode)) = &mut self.open else {
                let file = match File::open(&self.path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                };
                let inode = file.metadata()?.ino();
                self.open = Some((BufReader::new(file), inode));
                continue;
            };
            if reader.read_until(b'\n', &mut self.partial)? > 0 {
                if self.partial.ends_with(b"\n") {
                    return Ok(Some(std::mem::take(&mut self.partial)));
                }
                return Ok(None);
            }
            match std::fs::metadata(&self.path) {
                // Rotated: this file is at its end for good.
                Ok(now) if now.ino() != *inode => self.open = None,
                Ok(_) | Err(_) => return Ok(None),
            }
        }
    }
}

/// Whether a line of the file is no older than wanted. What has no time is shown.
fn admits(since: Option<Timestamp>, line: &[u8]) -> bool {
    let Some(since) = since else { return true };
    let time = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let time = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
    time.is_none_or(|time| time >= since)
}

/// A line of the file as the user sees it: the text, after its time if that is wanted. A line that was cut because it
/// was too long is joined to its rest.
fn shown(line: &[u8], timestamps: bool) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (Some(time), Some(_stream), Some(tag), Some(text)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return [line, b"\n"].concat();
    };
    let mut shown = Vec::with_capacity(line.len() + 1);
    if timestamps {
        shown.extend_from_slice(time);
        shown.push(b' ');
    }
    shown.extend_from_slice(text);
    if tag != b"P" {
        shown.push(b'\n');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_as_it_was_written() {
        let line = b"2026-11-23T22:13:00.123456789Z stdout F hello  world\n";
        assert_eq!(shown(line, false), b"hello  world\n");
        assert_eq!(shown(line, true), b"2026-11-23T22:13:00.123456789Z hello  world\n");
    }

    #[test]
    fn a_line_is_as_old_as_it_says() {
        let since = "2026-11-23T22:13:00Z".parse().ok();
        assert!(admits(since, b"2026-11-23T22:13:00.000000001Z stdout F x\n"));
        assert!(!admits(since, b"2026-11-23T22:12:59.999999999Z stdout F x\n"));
        assert!(admits(None, b"2020-11-23T22:12:59.999999999Z stdout F x\n") && admits(since, b"torn"));
    }

    #[test]
    fn the_pieces_of_a_long_line_are_joined() {
        let pieces = [&b"T stdout P abc\n"[..], b"T stdout F def\n"];
        assert_eq!(pieces.map(|piece| shown(piece, false)).concat(), b"abcdef\n");
    }

    #[test]
    fn an_empty_line_is_a_line() {
        assert_eq!(shown(b"T stdout F \n", false), b"\n");
    }
}
