//! How does a file come into being whole, or not at all?
//!
//! For keys that the gateway makes for itself. It does not say what stands in them.

use std::{fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

/// Writes a new file, and leaves one that is there already as it is: two processes that begin at once end up with one.
///
/// # Errors
/// What the file system says.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    // A link, unlike a rename, does not replace what another process has put there.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
