//! What does Tollgate look like at work?
//!
//! A development issuer, two sample MCP servers of different eras and a configuration, all on loopback and in a
//! temporary folder; then a walk through what the gateway does with calls. Nothing of the gateway is mocked or knows
//! that it is a demo: whoever runs this starts the gateway on [`Estate::config`] as on any other configuration.

mod estate;
mod issuer;
mod loopback;
mod servers;
mod token;
mod walk;

use std::{error::Error, fmt};

pub use self::estate::Estate;

/// The demo could not go on; the text says at what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoError(String);

impl DemoError {
    fn at(what: &str, error: impl fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for DemoError {}

#[cfg(test)]
mod tests;
