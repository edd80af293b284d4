//! What is in the folder?
//!
//! The one file of this stage that reads files; all others work on text.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Draft, Policies};
use crate::config::{Problem, Source};

impl Policies {
    /// Reads all `*.cedar` files of `directory`.
    ///
    /// # Errors
    /// Everything wrong in them, at once.
    pub fn load(directory: &Path) -> Result<Self, Vec<Problem>> {
        Self::of(Draft::load(directory))
    }
}

impl Draft {
    /// Reads of the `*.cedar` files of `directory` what can be read.
    #[must_use]
    pub fn load(directory: &Path) -> Self {
        Self::of(readable(directory, ".cedar"))
    }
}

/// The files of `directory` whose names end in `suffix`, by name; folders within are not looked into.
///
/// # Errors
/// The folder or some of the files cannot be read, or are larger than a policy can be.
pub fn sources(directory: &Path, suffix: &str) -> Result<Vec<Source>, Vec<Problem>> {
    let (sources, problems) = readable(directory, suffix);
    if problems.is_empty() { Ok(sources) } else { Err(problems) }
}

/// Those of them that can be read, and why the others cannot.
fn readable(directory: &Path, suffix: &str) -> (Vec<Source>, Vec<Problem>) {
    let files = match files(directory, suffix) {
        Ok(files) => files,
        Err(problem) => return (Vec::new(), vec![problem]),
    };
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    for (file, path) in files {
        match text(&path) {
            Ok(text) => sources.push(Source::within(directory, &file, text)),
            Err(why) => problems.push(fault(&path, &why.to_string())),
        }
    }
    (sources, problems)
}

fn files(directory: &Path, suffix: &str) -> Result<Vec<(String, PathBuf)>, Problem> {
    let entries = fs::read_dir(directory).map_err(|why| {
        let help = "set `policies` in `[gateway]` to the folder with the policy files";
        fault(directory, &why.to_string()).help(help)
    })?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|why| fault(directory, &why.to_string()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.ends_with(suffix) && !name.starts_with('.') {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    if files.len() > FILES_MAX { Err(fault(directory, "too many files")) } else { Ok(files) }
}

fn fault(path: &Path, why: &str) -> Problem {
    Problem::nowhere(format!("`{}` cannot be read: {why}", path.display()))
}

/// The file `name` of `directory`, if there is one.
///
/// # Errors
/// It is there and cannot be read.
pub fn source(directory: &Path, name: &str) -> Result<Option<Source>, Vec<Problem>> {
    Ok(sources(directory, name)?.into_iter().find(|source| source.name() == name))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX.saturating_add(1)).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|len| len <= FILE_BYTES_MAX) {
        Ok(text)
    } else {
        Err(io::Error::other("larger than 4 MiB"))
    }
}

/// Policies of ten thousand rules fit.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const FILES_MAX: usize = 1024;
