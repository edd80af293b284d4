//! What does the machine say?
//!
//! Variables and files, as values that a test can replace. The only place that reads the process environment.
//! It does not interpret what it read.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

use crate::secret::Secret;

/// Where the checker gets variables and files from.
#[derive(Clone)]
pub enum Environment {
    /// The process's own variables.
    Process,
    /// These variables and no others; a test and the demo say what they are.
    Given(BTreeMap<String, String>),
    /// Of another machine: secrets, certificates and folders are taken for granted and not looked at.
    Elsewhere,
}

/// What a file says.
#[derive(Clone)]
pub struct FileContent {
    /// Its bytes, wiped when dropped: the file may be a key.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Who may read it.
    pub readers: Readers,
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// The owner, and at most a group.
    Few,
    /// Every account of the machine.
    Everybody,
}

impl Environment {
    /// The process's own.
    #[must_use]
    pub const fn process() -> Self {
        Self::Process
    }

    /// Whether what the configuration names is to be looked at on this machine.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        match self {
            Self::Process | Self::Given(_) => true,
            Self::Elsewhere => false,
        }
    }

    /// The value of a variable that is set and is UTF-8.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn variable(&self, name: &str) -> Option<Secret> {
        match self {
            Self::Process => std::env::var(name).ok().map(Secret::new),
            Self::Given(variables) => variables.get(name).cloned().map(Secret::new),
            Self::Elsewhere => None,
        }
    }

    /// The content of a file, and who may read it.
    pub fn file(&self, path: &Path) -> io::Result<FileContent> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder"));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 4 MiB"));
        }
        Ok(FileContent { bytes, readers: readers(&about) })
    }

    /// Whether a path is a file that may be run.
    #[must_use]
    pub fn is_program(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|about| about.is_file() && may_run(&about))
    }

    /// Whether a path is a folder.
    #[must_use]
    pub fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[environment]")
    }
}

impl fmt::Debug for FileContent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FileContent({} bytes, {:?})", self.bytes.len(), self.readers)
    }
}

#[cfg(unix)]
fn readers(about: &fs::Metadata) -> Readers {
    use std::os::unix::fs::PermissionsExt as _;
    if about.permissions().mode() & 0o004 == 0 { Readers::Few } else { Readers::Everybody }
}

#[cfg(not(unix))]
fn readers(_: &fs::Metadata) -> Readers {
    Readers::Few
}

#[cfg(unix)]
fn may_run(about: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    about.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn may_run(_: &fs::Metadata) -> bool {
    true
}

/// Bytes of any file that the configuration is or names: thousands of upstreams fit, a device does not.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
