//! Pull and unpack one image of one large layer, in turns with `skopeo copy` and `umoci unpack`, and with `ctr`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Lab, programs};
use images::archive::{PackFile, PackSpec};
use images::{ImageStore, Reference, RegistryConfig};

use crate::report::{Finding, Report, Verdict};
use crate::sample::Sample;

/// How much faster than the peer it shall be.
const REACH: f64 = 2.0;
/// Files of the layer, and the size of each: about 100 MB compressed.
const FILES: usize = 4_000;
const FILE_BYTES: usize = 48 << 10;
/// Part of each file that no compression makes smaller, in percent: like programs, about half.
const RANDOM_PERCENT: usize = 52;
/// Where the random bytes begin: every run has the same layer.
const SEED: u64 = 11;

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 1 } else { 5 };
    let reference = lab.registry().push(&large());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("failed to start tokio")?;
    let (mut ours, mut theirs, mut ctr) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..rounds {
        ours.add_time(pull(&runtime, &reference)?);
        theirs.add_time(peer(&reference)?);
        ctr.add_time(containerd(lab, &reference)?);
    }
    let ratio = theirs.median() / ours.median();
    report.add(&Finding {
        what: format!(
            "pull + unpack, one layer of {} MB ({} MB unpacked)",
            size(&reference)?,
            FILES * FILE_BYTES / 1_000_000
        ),
        reach: "≥ 2 × `skopeo copy` + `umoci unpack`",
        measured: format!("{:.2} s (best {:.2}): {ratio:.1} ×", ours.median() / 1e3, ours.minimum() / 1e3),
        peer: format!("{:.2} s (best {:.2})", theirs.median() / 1e3, theirs.minimum() / 1e3),
        verdict: Verdict::of(ratio >= REACH),
    });
    let ratio = ctr.median() / ours.median();
    report.add(&Finding {
        what: "the same, beside containerd".to_owned(),
        reach: "no slower than `ctr images pull`",
        measured: format!("{:.2} s (best {:.2}): {ratio:.1} ×", ours.median() / 1e3, ours.minimum() / 1e3),
        peer: format!("{:.2} s (best {:.2})", ctr.median() / 1e3, ctr.minimum() / 1e3),
        verdict: Verdict::of(ratio >= 1.0),
    });
    report.note(&format!("Of {rounds} pulls each, in turns, from a registry on loopback, with an empty store each time. Neither waits for the disk: RIK has it put the image there afterwards, and pulls it again if the machine goes down before."));
    Ok(())
}

fn large() -> PackSpec {
    let mut random = fastrand::Rng::with_seed(SEED);
    let files = (0..FILES).map(|number| {
        let mut bytes = vec![b'x'; FILE_BYTES];
        random.fill(&mut bytes[..FILE_BYTES * RANDOM_PERCENT / 100]);
        PackFile { path: format!("/data/{}/{number}", number % 64), mode: 0o644, bytes }
    });
    PackSpec {
        reference: "large:1".into(),
        files: files.collect(),
        cmd: vec!["/none".into()],
        ..PackSpec::default()
    }
}

/// Compressed megabytes of the image, as the registry tells them.
fn size(reference: &str) -> Result<u64> {
    let output = Command::new(programs::needed("skopeo"))
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")])
        .output()
        .context("failed to run skopeo")?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("skopeo told no manifest")?;
    Ok(manifest["layers"][0]["size"].as_u64().unwrap_or_default() / 1_000_000)
}

fn pull(runtime: &tokio::runtime::Runtime, reference: &str) -> Result<Duration> {
    let folder = Lab::root().join("store");
    let reference: Reference = reference.parse().context("failed to read the reference")?;
    settle(&folder)?;
    let store = ImageStore::open(&folder, RegistryConfig::default()).context("failed to open the store")?;
    let begun = Instant::now();
    runtime.block_on(store.ensure(&reference)).context("failed to pull")?;
    let taken = begun.elapsed();
    drop(store);
    fs::remove_dir_all(&folder).context("failed to clear the store")?;
    Ok(taken)
}

fn peer(reference: &str) -> Result<Duration> {
    let folder = Lab::root().join("peer");
    settle(&folder)?;
    let layout = folder.join("layout");
    let begun = Instant::now();
    run(Command::new(programs::needed("skopeo"))
        .args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--src-tls-verify=false",
            &format!("docker://{reference}"),
        ])
        .arg(format!("oci:{}:large", layout.display())))?;
    run(Command::new(programs::needed("umoci"))
        .arg("unpack")
        .arg("--image")
        .arg(format!("{}:large", layout.display()))
        .arg(folder.join("bundle")))?;
    let taken = begun.elapsed();
    fs::remove_dir_all(&folder).context("failed to clear what the peers made")?;
    Ok(taken)
}

/// How long `ctr` takes, with a containerd of its own that has nothing yet.
fn containerd(lab: &mut Lab, reference: &str) -> Result<Duration> {
    let folder = Lab::root().join("containerd");
    settle(&folder)?;
    let socket = folder.join("sock");
    let config = folder.join("config.toml");
    // Its plugin for Kubernetes is of no use here, and wants a network of its own.
    fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
    let mut command = Command::new(programs::needed("containerd"));
    command.arg("--config").arg(&config).arg("--address").arg(&socket);
    command.arg("--root").arg(folder.join("root")).arg("--state").arg(folder.join("state"));
    lab.start("containerd", &mut command);
    let ctr = || {
        let mut command = Command::new(programs::needed("ctr"));
        command.arg("--address").arg(&socket);
        command
    };
    e2e::wait_until(e2e::SHORT, "containerd to answer", || run(ctr().arg("version")));
    let begun = Instant::now();
    run(ctr().args(["images", "pull", "--plain-http", reference]))?;
    let taken = begun.elapsed();
    lab.stop("containerd");
    fs::remove_dir_all(&folder).context("failed to clear what containerd made")?;
    Ok(taken)
}

fn run(command: &mut Command) -> Result<()> {
    let output =
        command.output().with_context(|| format!("failed to run {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Makes an empty folder, and lets the disk finish what earlier rounds gave it.
fn settle(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let opened = fs::File::open(folder)?;
    rustix::fs::syncfs(&opened).context("failed to wait for the disk")?;
    Ok(())
}
