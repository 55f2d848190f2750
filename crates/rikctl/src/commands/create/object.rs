//! `rikctl create config` and `rikctl create secret`: values from files and from the command line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use model::{api::ObjectBody, given::MAX_OBJECT_BYTES};

use crate::{
    client::Client,
    exit::Exit,
    failure::{Failure, Report},
    noun::Noun,
    terminal::Terminal,
};

#[derive(Debug, Args)]
pub(crate) struct CreateObjectArgs {
    /// Its name: lower-case letters, digits and -.
    #[arg(value_name = "NAME")]
    name: String,
    /// A value from a file; without a key, under the file's name. A directory gives every file in it.
    #[arg(long, value_name = "[KEY=]PATH")]
    from_file: Vec<String>,
    /// A value as it stands here; others on this machine can see it while the command runs.
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
}

pub(crate) fn create(
    noun: Noun,
    args: &CreateObjectArgs,
    connect: impl FnOnce(&mut Terminal) -> Result<Client, Failure>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let body = body(args)?;
    connect(terminal)?.create_object(&format!("/{}", noun.plural()), &body)?;
    terminal.print_line(&format!("{noun}/{} created", args.name))
}

fn body(args: &CreateObjectArgs) -> Result<ObjectBody, Failure> {
    let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for literal in &args.from_literal {
        let pair = literal.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = pair.ok_or_else(|| wrong("--from-literal needs KEY=VALUE"))?;
        put(&mut values, key.to_owned(), value.as_bytes().to_vec())?;
    }
    for file in &args.from_file {
        for (key, path) in files(file)? {
            let value = read(&path)?;
            put(&mut values, key, value)?;
        }
    }
    let mut body = ObjectBody { name: args.name.clone(), ..ObjectBody::default() };
    for (key, value) in values {
        match String::from_utf8(value) {
            Ok(text) => drop(body.data.insert(key, text)),
            Err(other) => drop(body.binary_data.insert(key, BASE64_STANDARD.encode(other.as_bytes()))),
        }
    }
    Ok(body)
}

/// The files that one `--from-file` means, with their keys.
fn files(argument: &str) -> Result<Vec<(String, PathBuf)>, Failure> {
    if let Some((key, path)) = argument.split_once('=') {
        return Ok(vec![(key.to_owned(), PathBuf::from(path))]);
    }
    let path = Path::new(argument);
    if !path.is_dir() {
        return Ok(vec![(key_of(path)?, path.to_owned())]);
    }
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(path, &error))?.path();
        if path.is_file() {
            found.push((key_of(&path)?, path));
        }
    }
    Ok(found)
}

fn key_of(path: &Path) -> Result<String, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| wrong(&format!("{} has no name to be a key; give KEY=PATH", path.display())))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let size = fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
    if size > MAX_OBJECT_BYTES as u64 {
        let words = format!("{} has {size} bytes; at most {MAX_OBJECT_BYTES} are kept", path.display());
        return Err(wrong(&words));
    }
    fs::read(path).map_err(|error| unreadable(path, &error))
}

fn put(values: &mut BTreeMap<String, Vec<u8>>, key: String, value: Vec<u8>) -> Result<(), Failure> {
    if values.contains_key(&key) {
        return Err(wrong(&format!("the key {key:?} is given twice")));
    }
    values.insert(key, value);
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Report::new(format!("{} cannot be read: {error}", path.display())).into()
}

fn wrong(words: &str) -> Failure {
    Report::new(words).exit(Exit::Usage).into()
}
