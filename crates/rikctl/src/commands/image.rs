//! `rikctl image`: the images on nodes, and bringing one there without a registry.

use std::{
    fs::File,
    io::{self, Read, Seek as _},
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::{
    NodeStatus,
    api::{ImageView, ImagesRemoved, NodeView},
};

use crate::{
    age::since,
    client::{Client, segment},
    failure::{Failure, Report, plain},
    listed::bytes,
    noun::Noun,
    output::{self, Format, OutputArgs},
    progress::Progress,
    resolve,
    table::Table,
    terminal::Terminal,
};

/// Characters of a digest that people compare.
const SHORT_DIGEST: usize = 19;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List the images on nodes.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Pull an image to nodes, before anything needs it.
    Pull(PullArgs),
    /// Bring an image from an archive (OCI or docker save) to nodes.
    Load(LoadArgs),
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
        ImageCommand::Rm(args) => remove(args, client, terminal),
        ImageCommand::Prune(args) => prune(args, client, terminal),
    }
}

fn path(node: &str) -> String {
    format!("/nodes/{}/images", segment(node))
}

/// The nodes that were named, or every one that is ready.
fn nodes(named: &[String], client: &Client) -> Result<Vec<String>, Failure> {
    if !named.is_empty() {
        return named
            .iter()
            .map(|name| Ok(resolve::object::<NodeView>(client, name)?.object.node.name))
            .collect();
    }
    let all = resolve::every::<NodeView>(client, &[])?;
    let count = all.len();
    let ready = all.into_iter().filter(|node| node.object.node.status == NodeStatus::Ready);
    let ready: Vec<_> = ready.map(|node| node.object.node.name).collect();
    match (count, ready.is_empty()) {
        (0, _) => Err(Report::new("the cluster has no node").hint("start a riklet").into()),
        (_, true) => Err(Report::new("no node is ready").hint("rikctl get nodes").into()),
        (_, false) => Ok(ready),
    }
}

fn pull(args: &PullArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    super::each(nodes(&args.nodes, client)?, terminal, |node, terminal| {
        let image = client.pull_image(&format!("{}/pull", path(&node)), &args.image)?;
        let digest: String = image.digest.chars().take(SHORT_DIGEST).collect();
        let size = bytes(image.size);
        terminal.print_line(&format!("image {} ({digest}, {size}) is on node {node}", image.reference))
    })
}

/// A node that does not have an image is no failure, as long as another one does.
fn remove(args: &RemoveArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let nodes = nodes(&args.nodes, client)?;
    super::each(&args.images, terminal, |image, terminal| {
        let (mut any, mut absent) = (false, None);
        let outcome = super::each(&nodes, terminal, |node, terminal| {
            match client.remove_images(&path(node), Some(image)) {
                Ok(gone) => {
                    any = true;
                    terminal.print_line(&removed(&gone, node))
                }
                Err(error) if error.code() == Some("image-not-found") => {
                    absent = Some(error);
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        });
        match absent.filter(|_| !any && outcome.is_ok()) {
            Some(error) => Err(error.into()),
            None => outcome,
        }
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
    let mut values = Vec::new();
    let outcome = super::each(nodes(&args.nodes, client)?, terminal, |node, _| {
        values.extend(client.list(&path(&node), &[])?.items);
        Ok(())
    });
    print(args, &values, terminal)?;
    outcome
}

fn print(args: &ListArgs, values: &[serde_json::Value], terminal: &mut Terminal) -> Result<(), Failure> {
    let format = args.output.format();
    match format {
        Format::Json if !args.output.quiet => return terminal.print(&output::json(&values.into())?),
        Format::Yaml if !args.output.quiet => return terminal.print(&output::yaml(&values.into())?),
        Format::Table | Format::Wide | Format::Json | Format::Yaml | Format::Name => {}
    }
    let images = values.iter().map(serde::Deserialize::deserialize).collect::<Result<Vec<ImageView>, _>>();
    let images = images.map_err(|error| {
        Report::new(format!("the controller's list of images is not understood: {error}"))
    })?;
    if args.output.quiet || format == Format::Name {
        return images.iter().try_for_each(|image| terminal.print_line(&image.reference));
    }
    let mut table = Table::new(vec!["NODE", "IMAGE", "DIGEST", "SIZE", "CONTAINERS", "AGE", "USED"]);
    let now = Timestamp::now();
    for image in images {
        let digest = if format == Format::Wide {
            image.digest
        } else {
            image.digest.chars().take(SHORT_DIGEST).collect()
        };
        let used = image.used_at.map_or_else(|| "-".to_owned(), |used| since(now, used));
        table.push(vec![
            image.node,
            image.reference,
            digest,
            bytes(image.size),
            image.containers.to_string(),
            since(now, image.pulled_at),
            used,
        ]);
    }
    terminal.print(&table.render(args.output.headed()))
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
