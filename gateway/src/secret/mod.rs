//! How are values kept that must never print?
//!
//! A [`Secret`] shows nothing in `Debug`, has no `Display` and no `Serialize`, and is wiped when it is dropped.
//! It does not decide who may read it: every `expose` call is a place for a reviewer to look at.

mod tripwire;

use std::{fmt, io, path::Path};

pub use tripwire::Tripwire;
use zeroize::Zeroizing;

/// Text that must not appear in a log, an error, an audit record or a core of any of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes `text` over; the caller keeps no copy.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that puts it on the wire or into a key derivation.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

/// No core file of this process is written, whatever the limits of its environment say, and no other process of the same
/// account reads its memory (Linux `PR_SET_DUMPABLE`).
///
/// # Errors
/// What the kernel says.
pub fn keep_from_cores() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Says in the log where other accounts than the gateway's own may write into `folder`: what it relies on lies there, and
/// whoever can put a file in place of another decides what that says.
pub fn warn_of_writers(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if std::fs::metadata(folder).is_ok_and(|about| about.permissions().mode() & 0o022 != 0) {
        tracing::warn!(folder = %folder.display(), "other accounts may write into a folder of the gateway's");
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[cfg(target_os = "linux")]
    #[test]
    fn no_core_is_written() {
        use rustix::process::{DumpableBehavior, dumpable_behavior};
        super::keep_from_cores().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "[secret]");
    }
}
