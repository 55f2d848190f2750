//! `rikctl image`: the images on nodes, and bringing one there without a registry.

use std::{
    fs::{File, Permissions},
    io::{self, IsTerminal as _, Read, Seek as _, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::api::{ImageView, ImagesRemoved};

use super::on_nodes::{Listing, nodes, take_away};
use crate::{
    age::since,
    client::{Client, segment, with_query},
    exit::Exit,
    failure::{Failure, Report, plain},
    listed::bytes,
    noun::Noun,
    output::{Format, OutputArgs},
    progress::Progress,
    terminal::Terminal,
};

/// Characters of a digest that people compare.
const SHORT_DIGEST: usize = 19;
/// Longest silence of a node that saves an image: it reads the largest layer whole before it sends it.
const PACKING: Duration = Duration::from_secs(10 * 60);
/// Bytes of an archive that are passed on at a time.
const COPIED_BYTES: usize = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images on nodes.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Pull an image to nodes, before anything needs it.
    Pull(PullArgs),
    /// Bring an image from an archive (OCI or docker save) to nodes.
    Load(LoadArgs),
    /// Write an image of a node to an archive, which `load` and `docker load` read.
    Save(SaveArgs),
    /// Remove images from nodes. One that a container stands on stays.
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Remove every image that nothing uses.
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Only to this node; repeatable. Otherwise to every node that is ready.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where to write it; a pipe on stdout if absent.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The node to take it from. Otherwise the first one that has it.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The images.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Only from this node; repeatable. Otherwise from every node that is ready.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Only on this node; repeatable. Otherwise on every node that is ready.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only on this node; repeatable. Otherwise on every node that is ready.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive; - reads stdin, for one node.
    #[arg(value_name = "FILE")]
    file: String,
    /// Only to this node; repeatable. Otherwise to every node that is ready.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// Print the image's names alone.
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(command: &ImageCommand, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    match command {
        ImageCommand::Ls(args) => list(args, client, terminal),
        ImageCommand::Pull(args) => pull(args, client, terminal),
        ImageCommand::Load(args) => load(args, client, terminal),
        ImageCommand::Save(args) => save(args, client, terminal),
        ImageCommand::Rm(args) => remove(args, client, terminal),
        ImageCommand::Prune(args) => prune(args, client, terminal),
    }
}

fn path(node: &str) -> String {
    format!("/nodes/{}/images", segment(node))
}

fn pull(args: &PullArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    super::each(nodes(&args.nodes, client)?, terminal, |node, terminal| {
        let image = client.pull_image(&format!("{}/pull", path(&node)), &args.image)?;
        let digest: String = image.digest.chars().take(SHORT_DIGEST).collect();
        let size = bytes(image.size);
        terminal.print_line(&format!("image {} ({digest}, {size}) is on node {node}", image.reference))
    })
}

fn remove(args: &RemoveArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let nodes = nodes(&args.nodes, client)?;
    super::each(&args.images, terminal, |image, terminal| {
        take_away(&nodes, "image-not-found", terminal, |node| {
            Ok(removed(&client.remove_images(&path(node), Some(image))?, node))
        })
    })
}

fn prune(args: &PruneArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    super::each(nodes(&args.nodes, client)?, terminal, |node, terminal| {
        let gone = client.remove_images(&path(&node), None)?;
        if gone.removed.is_empty() {
            return terminal.print_line(&format!("node {node} has no image that nothing uses"));
        }
        terminal.print_line(&removed(&gone, &node))
    })
}

fn removed(gone: &ImagesRemoved, node: &str) -> String {
    format!("removed from node {node}: {} ({} freed)", gone.removed.join(", "), bytes(gone.freed_bytes))
}

fn list(args: &ListArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let listing = Listing {
        what: "images",
        columns: &["NODE", "IMAGE", "DIGEST", "SIZE", "CONTAINERS", "AGE", "USED"],
        name: |image: &ImageView| &image.reference,
        row,
    };
    let paths = nodes(&args.nodes, client)?;
    listing.print(paths.iter().map(|node| path(node)), &args.output, client, terminal)
}

fn row(image: &ImageView, now: Timestamp, format: Format) -> Vec<String> {
    let shown = if format == Format::Wide { usize::MAX } else { SHORT_DIGEST };
    vec![
        image.node.clone(),
        image.reference.clone(),
        image.digest.chars().take(shown).collect(),
        bytes(image.size),
        image.containers.to_string(),
        since(now, image.pulled_at),
        image.used_at.map_or_else(|| "-".to_owned(), |used| since(now, used)),
    ]
}

fn load(args: &LoadArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut source = Source::open(&args.file)?;
    let nodes = nodes(&args.nodes, client)?;
    if matches!(source, Source::Stdin) && nodes.len() > 1 {
        let report = Report::new(format!("stdin can be read once, and there are {} nodes", nodes.len()));
        return Err(report.hint("name one with --node, or give a file").into());
    }
    super::each(nodes, terminal, |node, terminal| {
        let length = source.rewind(&args.file)?;
        let mut progress = Progress::of_bytes(terminal, length);
        progress.say(&format!("sending {} to {}/{node}", args.file, Noun::Node), terminal);
        let mut counted = Counted { source: &mut source, progress: &progress };
        let references = client.load_image(&path(&node), &mut counted)?;
        drop(progress);
        for reference in &references {
            let line = if args.quiet {
                reference.clone()
            } else {
                format!("image {reference} loaded on node {node}")
            };
            terminal.print_line(&line)?;
        }
        if references.is_empty() {
            terminal.note("the archive names no image; it can be used by its digest only");
        }
        Ok(())
    })
}

fn save(args: &SaveArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    if args.output.is_none() && io::stdout().is_terminal() {
        let report = Report::new("an archive is nothing to look at");
        return Err(report.hint("-o image.tar, or a pipe behind it").exit(Exit::Usage).into());
    }
    let named: Vec<String> = args.node.iter().cloned().collect();
    let (node, mut archive) = find_saved(args, &nodes(&named, client)?, client)?;
    let Some(path) = &args.output else {
        let mut out = io::stdout().lock();
        return copy(&mut archive, &mut out, client, &Progress::of_bytes(terminal, None));
    };
    // What is there stays until the whole archive is.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written =
        |error: io::Error| Report::new(format!("{} cannot be written: {}", path.display(), plain(&error)));
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(written)?;
    let mut progress = Progress::of_bytes(terminal, None);
    progress.say(&format!("saving {} of {}/{node}", args.image, Noun::Node), terminal);
    copy(&mut archive, &mut file, client, &progress)?;
    drop(progress);
    file.persist(path).map_err(|error| written(error.error))?;
    terminal.print_line(&format!("image {} of node {node} saved as {}", args.image, path.display()))
}

/// The archive of the first of these nodes that has the image.
fn find_saved(
    args: &SaveArgs,
    nodes: &[String],
    client: &Client,
) -> Result<(String, impl Read + use<>), Failure> {
    let mut absent = None;
    for node in nodes {
        let path = with_query(&format!("{}/archive", path(node)), &[("reference", &args.image)]);
        match client.stream(&path, Some(PACKING), None) {
            Ok(archive) => return Ok((node.clone(), archive)),
            Err(error) if error.code() == Some("image-not-found") => absent = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(absent.map_or_else(|| Report::new("there is no node to take it from").into(), Failure::from))
}

/// Passes an archive on. That it broke off is the cluster's fault, that it is not taken is this side's.
fn copy(
    archive: &mut impl Read,
    out: &mut impl Write,
    client: &Client,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut buffer = vec![0_u8; COPIED_BYTES];
    loop {
        let count = archive.read(&mut buffer).map_err(|error| client.transport(error.into()))?;
        if count == 0 {
            return Ok(out
                .flush()
                .map_err(|error| Report::new(format!("not written: {}", plain(&error))))?);
        }
        let piece = buffer.get(..count).unwrap_or_default();
        match out.write_all(piece) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(Failure::ReaderGone),
            Err(error) => return Err(Report::new(format!("not written: {}", plain(&error))).into()),
            Ok(()) => progress.advance(count),
        }
    }
}

/// Where an archive comes from.
enum Source {
    Stdin,
    File(File),
}

impl Source {
    fn open(file: &str) -> Result<Self, Failure> {
        if file == "-" {
            return Ok(Self::Stdin);
        }
        let opened = File::open(file).and_then(|opened| Ok((opened.metadata()?, opened)));
        match opened {
            Ok((metadata, _)) if metadata.is_dir() => {
                let report = Report::new(format!("{file} is a directory, and an image archive is one file"));
                Err(report.hint(format!("tar -C {file} -cf image.tar .")).into())
            }
            Ok((_, opened)) => Ok(Self::File(opened)),
            Err(error) => Err(Report::new(format!("{file} cannot be read: {}", plain(&error))).into()),
        }
    }

    /// Back to the start, for the next node. The length, where it is known.
    fn rewind(&mut self, file: &str) -> Result<Option<u64>, Failure> {
        match self {
            Self::Stdin => Ok(None),
            Self::File(opened) => opened
                .rewind()
                .and_then(|()| opened.metadata())
                .map(|metadata| Some(metadata.len()))
                .map_err(|error| Report::new(format!("{file} cannot be read: {}", plain(&error))).into()),
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stdin => io::stdin().read(buffer),
            Self::File(opened) => opened.read(buffer),
        }
    }
}

/// Counts what passes.
struct Counted<'a> {
    source: &'a mut Source,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.progress.advance(length);
        Ok(length)
    }
}
