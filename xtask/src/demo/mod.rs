//! `cargo xtask demo`: from nothing to a container and a microVM of yours that answer over the network, and
//! back to nothing.
//!
//! ```text
//! packages → build → ledger → rik up → image load → create → wait → fetch (pod, function) → table, hints → Ctrl-C
//!          → clean-up → ledger
//! ```
//!
//! *Guarantees*: whatever happens after `rik up`, everything is taken down again, and the ledger says whether that
//! worked. Without a terminal, or with `--once`, nothing waits for Ctrl-C.

mod cluster;

use std::fs;
use std::io::{self, IsTerminal};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::cluster::Cluster;
use crate::interrupt::Interrupt;
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::{failure, hello, http, kernel, packages, paths, root, step};

/// A workload that is shown.
struct Shown {
    manifest: &'static str,
    /// The port that it publishes its page on.
    port: u16,
    kind: &'static str,
}

/// What is shown: the same image, as a container and as a microVM.
const SHOWN: [Shown; 2] = [
    Shown { manifest: "docs/src/examples/workloads/hello.json", port: 30080, kind: "pod" },
    Shown { manifest: "docs/src/examples/functions/hello.json", port: 30081, kind: "function" },
];
/// How long a page may take from the moment that its container runs.
const PAGE_PATIENCE: Duration = Duration::from_secs(20);
/// How often something that is waited for is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How often the ledger is read before a difference counts: the kernel removes namespaces at leisure.
const LEDGER_READINGS: u32 = 50;

/// How to show it.
#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Clean up and end once the page was fetched, also on a terminal.
    #[arg(long)]
    once: bool,
    /// Build with optimisation: takes minutes longer to build, and shows RIK's own speed.
    #[arg(long)]
    release: bool,
}

/// Shows it.
///
/// # Errors
/// When any step fails; what was started is taken down all the same.
pub(crate) fn run(options: &DemoOptions) -> Result<ExitCode> {
    packages::install(packages::FOR_DEMO)?;
    root::acquire("to make containers and their network")?;
    let programs = build(options.release)?;
    for Shown { manifest, port, .. } in SHOWN {
        if TcpListener::bind(("0.0.0.0", port)).is_err() {
            bail!("port {port} is taken by another program, and {manifest} publishes its page there");
        }
    }
    let kernel = kernel::for_microvms().unwrap_or_else(|error| {
        eprintln!("note: there is no kernel for a microVM, so only the pod is shown: {error:#}");
        None
    });
    let microvms = kernel.is_some() || kernel::in_boot(Path::new("/")).is_some();
    let interrupt = Interrupt::catch()?;
    let before = Ledger::take(&programs)?;
    let shown = show(options, &programs, (kernel.as_deref(), microvms), &interrupt);
    if let Err(error) = &shown {
        failure::print(error);
    }
    let clean = assert_clean(&before, &programs)?;
    Ok(if shown.is_ok() && clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds everything; gives the folder of the programs.
fn build(release: bool) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["build", "--workspace"]).current_dir(paths::workspace());
    if release {
        command.arg("--release");
    }
    step::run("build RIK", &mut command)?;
    step::run("build the example", &mut hello::build_command())?;
    Ok(paths::target().join(if release { "release" } else { "debug" }))
}

/// Everything between an empty machine and an empty machine.
fn show(
    options: &DemoOptions,
    programs: &Path,
    (kernel, microvms): (Option<&Path>, bool),
    interrupt: &Interrupt,
) -> Result<()> {
    let mut cluster = Cluster::start(programs, kernel)?;
    let shown = if microvms { &SHOWN[..] } else { &SHOWN[..1] };
    let outcome = tell(options, programs, (interrupt, shown), &mut cluster);
    if outcome.is_err() {
        cluster.show_log();
    }
    let gone = cluster.take_down();
    outcome.and(gone)
}

fn tell(
    options: &DemoOptions,
    programs: &Path,
    (interrupt, shown): (&Interrupt, &[Shown]),
    cluster: &mut Cluster,
) -> Result<()> {
    cluster.wait_ready(interrupt)?;
    let archive = cluster.folder().join("hello.tar");
    hello::pack(programs, &archive)?;
    step::run("load the image", cluster.rikctl().args(["image", "load"]).arg(&archive))?;
    let mut instances = Vec::new();
    for Shown { manifest, port, kind } in shown {
        let workload = cluster.ask(&["create", "workload", "--file", manifest, "--quiet"])?;
        let create = ["create", "instance", "--workload-id", &workload, "--quiet"];
        let instance = cluster.ask(&create)?;
        step::run(
            &format!("start the {kind}"),
            cluster.rikctl().args(["wait", "instance", &instance, "--for", "running"]),
        )?;
        let page = fetch(*port, interrupt)?;
        println!("\nhttp://127.0.0.1:{port}/ answers:\n");
        page.lines().for_each(|line| println!("    {line}"));
        instances.push(instance);
    }
    println!("\n{}", cluster.ask(&["get", "instances", "-o", "wide"])?);
    if options.once || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Ok(());
    }
    print_hints(cluster, &instances, shown);
    while !interrupt.arrived() {
        cluster.assert_runs()?;
        thread::sleep(POLL);
    }
    eprintln!();
    Ok(())
}

/// Fetches the page through the published port.
fn fetch(port: u16, interrupt: &Interrupt) -> Result<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut progress = Progress::begin("fetch its page");
    loop {
        match http::get(address, "/") {
            Ok(page) => {
                progress.end(true);
                return Ok(page);
            }
            Err(error) if progress.elapsed() > PAGE_PATIENCE => {
                progress.end(false);
                return Err(error).with_context(|| format!("failed to fetch http://{address}/"));
            }
            Err(_) if interrupt.arrived() => bail!("interrupted"),
            Err(error) => progress.tick(&error.to_string()),
        }
        thread::sleep(POLL);
    }
}

fn print_hints(cluster: &Cluster, instances: &[String], shown: &[Shown]) {
    let rikctl = cluster.typed();
    let (first, last) =
        (instances.first().map_or("", String::as_str), instances.last().map_or("", String::as_str));
    println!("\nwhat to type next, in another terminal:\n");
    for (command, what) in [
        (format!("logs {first}"), "what it has written"),
        (
            format!("describe instance {last}"),
            "everything known about it, and where the time of its start went",
        ),
        ("describe node".to_owned(), "where they run, and what microVMs run with"),
        (format!("delete instance {first}"), "end it"),
    ] {
        println!("    {:<60} # {what}", format!("{rikctl} {command}"));
    }
    for Shown { port, kind, .. } in shown {
        println!("    {:<60} # the {kind}; in a browser too", format!("curl http://127.0.0.1:{port}/"));
    }
    println!("\nCtrl-C ends the cluster and removes all of it.");
}

/// Whether the machine is as it was; what is not is printed.
fn assert_clean(before: &Ledger, programs: &Path) -> Result<bool> {
    let mut progress = Progress::begin("check that nothing is left behind");
    let mut differences = Vec::new();
    for _ in 0..LEDGER_READINGS {
        differences = before.differences(&Ledger::take(programs)?);
        if differences.is_empty() {
            break;
        }
        progress.tick(&differences[0]);
        thread::sleep(POLL);
    }
    progress.end(differences.is_empty());
    differences.iter().for_each(|line| eprintln!("       {line}"));
    Ok(differences.is_empty())
}

/// Reads the end of a log for people; nothing where there is none.
fn read(log: &Path) -> String {
    fs::read_to_string(log).unwrap_or_default()
}
