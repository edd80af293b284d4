//! What did the administrator ask for?
//!
//! `upstreams.toml` in two forms: as written (serde, with spans) and as checked (meaning). The only module that reads
//! the environment. It does not act on what it read.

mod check;
pub mod checked;
pub mod diagnose;
pub mod dialects;
pub mod environment;
pub(crate) mod read;
pub mod reload;
mod tolerance;
mod written;

use std::path::{Path, PathBuf};

use self::check::Files;
pub use self::{
    checked::*,
    diagnose::{Colour, Problem, Report, Source},
    dialects::Dialect,
    environment::Environment,
    tolerance::Tolerance,
};
use crate::digest;

/// Reads and judges the configuration at `path`: all of it is right, or everything that is wrong is told.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, Report> {
    load_with_files(path, environment).0
}

/// Where the policies are, as far as can be told when other things in the file at `path` are wrong: where it is TOML.
#[must_use]
pub fn policies(path: &Path, environment: &Environment) -> Option<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let bytes = environment.file(path).ok()?.bytes;
    let reading = read::read::<written::File>("", std::str::from_utf8(&bytes).ok()?).ok()?;
    let named = reading.file.gateway.and_then(|gateway| gateway.into_inner().policies);
    Some(named.map_or_else(|| folder.join("policies"), |named| folder.join(named.get_ref())))
}

/// [`load`], and which other files it looked at.
fn load_with_files(path: &Path, environment: &Environment) -> (Result<Config, Report>, Files) {
    let name = path.display().to_string();
    let bytes = match environment.file(path) {
        Ok(content) => content.bytes,
        Err(error) => {
            let problem = Source::new(&name, String::new())
                .problem(format!("`{name}` cannot be read: {error}"))
                .help("name the configuration with `--config PATH`; the repository's `upstreams.toml` is an example");
            return (Err(Report::of(problem)), Files::default());
        }
    };
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let problem = Source::new(&name, String::new())
                .problem(format!("`{name}` is not UTF-8 from byte {} on", error.valid_up_to()))
                .help("save it as UTF-8, which TOML demands");
            return (Err(Report::of(problem)), Files::default());
        }
    };
    let reading = match read::read(&name, text) {
        Ok(reading) => reading,
        Err(problems) => return (Err(Report::from(problems)), Files::default()),
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let (config, files) = check::check(reading, folder, environment, digest::hex(&digest::sha256(text.as_bytes())));
    (config.map_err(Report::from), files)
}
