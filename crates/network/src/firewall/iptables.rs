//! Running `iptables-save` and `iptables-restore`.

use std::{
    ffi::OsString,
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{
    observed::{Observed, ObservedError},
    plan::Batch,
};

/// How long one run may take. A run takes milliseconds; with 10,000 rules of others, or while another program holds
/// the lock, seconds.
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// How long `iptables-restore` waits for the lock, in seconds: less than [`RUN_LIMIT`], so that it can say so.
const LOCK_WAIT_SECONDS: &str = "20";

/// How much output is read. 64 MiB are about 500,000 rules.
const OUTPUT_LIMIT_BYTES: u64 = 64 << 20;

/// Where the programs may be: not every caller's path has the directories for administration.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Which of the kernel's two rule engines is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The one that the host has chosen: `iptables`.
    #[default]
    Host,
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program is not installed.
    #[error(
        "find the program {program:?}: install the package \"iptables\" (it has this name on Debian, Ubuntu and Fedora)"
    )]
    Missing {
        /// The program.
        program: &'static str,
    },
    /// The program could not be run.
    #[error("run {program}")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program did not end.
    #[error("run {program}: it did not end within {} s", RUN_LIMIT.as_secs())]
    Late {
        /// The program.
        program: &'static str,
    },
    /// The program refused.
    #[error("run {program}: {status}: {complaint}")]
    Refused {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        complaint: String,
    },
    /// The output of `iptables-save` could not be understood.
    #[error("understand {program}")]
    Understand {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: ObservedError,
    },
}

impl Backend {
    fn save_program(self) -> &'static str {
        match self {
            Self::Host => "iptables-save",
            Self::Nft => "iptables-nft-save",
            Self::Legacy => "iptables-legacy-save",
        }
    }

    fn restore_program(self) -> &'static str {
        match self {
            Self::Host => "iptables-restore",
            Self::Nft => "iptables-nft-restore",
            Self::Legacy => "iptables-legacy-restore",
        }
    }

    /// Whether the rules are nf_tables', whose states the kernel numbers.
    pub(super) async fn is_numbered(self) -> bool {
        match self {
            Self::Host => {
                let said = run(self.save_program(), &["--version"], "").await;
                said.is_ok_and(|said| said.contains("nf_tables"))
            }
            Self::Nft => true,
            Self::Legacy => false,
        }
    }

    /// What is there now.
    pub(super) async fn save(self) -> Result<Observed, IptablesError> {
        let program = self.save_program();
        let text = run(program, &[], "").await?;
        Observed::parse(&text).map_err(|source| IptablesError::Understand { program, source })
    }

    /// Applies a batch: each table of it whole or not at all.
    pub(super) async fn restore(self, batch: &Batch) -> Result<(), IptablesError> {
        run(self.restore_program(), &["--noflush", "-w", LOCK_WAIT_SECONDS], batch.as_str()).await?;
        Ok(())
    }
}

async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, IptablesError> {
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", search_path())
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => IptablesError::Missing { program },
            _ => IptablesError::Run { program, source },
        })?;
    let ended = tokio::time::timeout(RUN_LIMIT, converse(child, input)).await;
    let (status, output, complaint) = ended
        .map_err(|_| IptablesError::Late { program })?
        .map_err(|source| IptablesError::Run { program, source })?;
    if status.success() {
        Ok(output)
    } else {
        Err(IptablesError::Refused { program, status, complaint: complaint.trim().to_owned() })
    }
}

async fn converse(mut child: Child, input: &str) -> io::Result<(ExitStatus, String, String)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut pipe) = stdin {
            // A program that ends before it has read everything tells why by its status.
            let _ = pipe.write_all(input.as_bytes()).await;
        }
    };
    let ((), output, complaint) = tokio::join!(write, read(stdout), read(stderr));
    Ok((child.wait().await?, output?, complaint?))
}

async fn read(pipe: Option<impl AsyncReadExt + Unpin>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT_LIMIT_BYTES).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The path that the caller has, and behind it the usual places.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(SYSTEM_PATH);
    path
}
