//! What a container leaves on disk: who its process is and how it ended. Written by the shim, read by everybody.
//!
//! ```text
//!  run/<uid>/c/<index>/process.json   the process exists (written before it may run its program)
//!                      /exit.json      it is over (written before anybody hears of it)
//! ```
//! *Guarantee*: each file is either absent or whole; it is written beside its place and moved there. For every
//! `process.json` there is an `exit.json` some day, if only written by the next shim.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Name of the file that says that a container's process exists.
pub const PROCESS_FILE: &str = "process.json";
/// Name of the file that says how a container ended.
pub const EXIT_FILE: &str = "exit.json";
/// Largest file of this kind that is read: ours are a few kilobytes, a record with 32 containers of full size included.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Bytes at which a file of [`append`] begins anew, with its last value alone.
const LONG_FILE_BYTES: u64 = 64 << 10;

/// The process of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessFile {
    /// Process id on this machine.
    pub pid: i32,
    /// When the kernel made it, in ticks since boot: together with the pid unique until the next boot.
    pub start_ticks: u64,
    /// Start of the machine that the pid belongs to.
    pub boot_id: String,
    /// When it was created, a moment before it ran its program.
    pub created_at: Timestamp,
    /// Where its output goes.
    pub log: PathBuf,
    /// Signal that asks it to end.
    pub stop_signal: i32,
    /// Directory of its memory group, where kills for want of memory are counted.
    #[serde(default)]
    pub memory_dir: Option<PathBuf>,
    /// Which run of the container it is, from 0.
    #[serde(default)]
    pub run: u32,
    /// Whether its input ends with the first who attaches.
    #[serde(default)]
    pub stdin_once: bool,
    /// Its control group, if its processes do not end with its first one.
    #[serde(default)]
    pub group: Option<PathBuf>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitFile {
    /// Exit code, if it ended by itself.
    #[serde(default)]
    pub code: Option<i32>,
    /// Signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether the kernel killed one of its processes for want of memory.
    #[serde(default)]
    pub out_of_memory: bool,
    /// Why it never started.
    #[serde(default)]
    pub start_error: Option<String>,
    /// When its end was noticed.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Which run of the container it was, from 0.
    #[serde(default)]
    pub run: u32,
}

impl ExitFile {
    /// What a shell would show: the code, or 128 and the signal's number. None if nobody saw how it ended.
    #[must_use]
    pub fn shell_code(&self) -> Option<i32> {
        self.code.or_else(|| self.signal.map(|signal| 128 + signal))
    }
}

/// Writes `value` as JSON to `path` so that a reader sees the old or the new, never a part.
///
/// # Errors
/// What the file system says.
pub fn write_whole<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    write_bytes_whole(path, &bytes)
}

/// Writes `bytes` to `path` so that a reader sees the old or the new, never a part.
///
/// # Errors
/// What the file system says.
pub fn write_bytes_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, path)
}

/// Writes `value` as JSON to the end of the file at `path`, as a line of its own: [`read_last`] sees the old or the new,
/// never a part. That costs the disk no file for each value.
///
/// # Errors
/// What the file system says.
pub fn append<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    // What was left half written before ends here.
    let mut line = vec![b'\n'];
    serde_json::to_writer(&mut line, value)?;
    line.push(b'\n');
    let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() + line.len() as u64 > LONG_FILE_BYTES {
        return write_bytes_whole(path, &line);
    }
    file.write_all(&line)
}

/// Reads the last value of a file of [`append`]; None if there is no file.
///
/// # Errors
/// What the file system says; `InvalidData` if no value is whole.
pub fn read_last<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    let mut why = io::Error::new(io::ErrorKind::InvalidData, "it is empty");
    for line in bytes.split(|byte| *byte == b'\n').rev().filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(value) => return Ok(Some(value)),
            Err(error) => why = io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
    Err(why)
}

/// Reads the JSON file at `path`; None if there is none.
///
/// # Errors
/// What the file system says; `InvalidData` if it is not what we write.
pub fn read_whole<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read_bytes(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn read_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "far larger than anything that we write"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_by_signal_shows_as_128_and_its_number() {
        let exit = |code, signal| ExitFile { code, signal, ..ExitFile::default() };
        assert_eq!(exit(None, Some(9)).shell_code(), Some(137));
        assert_eq!(exit(Some(3), None).shell_code(), Some(3));
        assert_eq!(exit(None, None).shell_code(), None);
    }

    #[test]
    fn last_value_that_is_whole_counts_and_the_file_stays_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        assert!(read_last::<ExitFile>(&path).unwrap().is_none());
        let exit = |run| ExitFile { run, ..ExitFile::default() };
        let last = || read_last::<ExitFile>(&path).unwrap().unwrap().run;
        append(&path, &exit(1)).unwrap();
        append(&path, &exit(2)).unwrap();
        assert_eq!(last(), 2);
        let whole = fs::read(&path).unwrap();
        for torn in [&b"\n{\"code\":"[..], b"\0\0\0", b"\n"] {
            fs::write(&path, [&whole, torn].concat()).unwrap();
            assert_eq!(last(), 2, "{torn:?}");
            append(&path, &exit(3)).unwrap();
            assert_eq!(last(), 3, "{torn:?}");
        }
        for run in 0..2_000 {
            append(&path, &exit(run)).unwrap();
        }
        assert_eq!(last(), 1_999);
        assert!(fs::metadata(&path).unwrap().len() <= LONG_FILE_BYTES);
    }

    #[test]
    fn torn_file_is_an_error_and_an_absent_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EXIT_FILE);
        assert!(read_whole::<ExitFile>(&path).unwrap().is_none());
        let exit = ExitFile { code: Some(1), ..ExitFile::default() };
        write_whole(&path, &exit).unwrap();
        assert_eq!(read_whole::<ExitFile>(&path).unwrap(), Some(exit));
        fs::write(&path, "{\"code\":").unwrap();
        assert_eq!(read_whole::<ExitFile>(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
