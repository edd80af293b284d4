//! What is in the folder?
//!
//! The one file of this stage that reads files; all others work on text.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::Policies;
use crate::config::{Problem, Source};

impl Policies {
    /// Reads all `*.cedar` files of `directory`.
    ///
    /// # Errors
    /// Everything wrong in them, at once.
    pub fn load(directory: &Path) -> Result<Self, Vec<Problem>> {
        Self::parse(sources(directory, ".cedar")?)
    }
}

/// The files of `directory` whose names end in `suffix`, by name; folders within are not looked into.
///
/// # Errors
/// The folder or one of the files cannot be read, or is larger than a policy can be.
pub fn sources(directory: &Path, suffix: &str) -> Result<Vec<Source>, Vec<Problem>> {
    let fault = |path: &Path, why: &str| vec![Problem::nowhere(format!("`{}` cannot be read: {why}", path.display()))];
    let entries = fs::read_dir(directory).map_err(|why| {
        let help = "set `policies` in `[gateway]` to the folder with the policy files";
        vec![Problem::nowhere(format!("`{}` cannot be read: {why}", directory.display())).help(help)]
    })?;
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|why| fault(directory, &why.to_string()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.ends_with(suffix) && !name.starts_with('.') {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    if files.len() > FILES_MAX {
        return Err(fault(directory, "too many files"));
    }
    files
        .into_iter()
        .map(|(file, path)| match text(&path) {
            Ok(text) => Ok(Source::within(directory, &file, text)),
            Err(why) => Err(fault(&path, &why.to_string())),
        })
        .collect()
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
