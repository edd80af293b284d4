//! Where do the tests find and put things?
//!
//! Everything that a test writes lies under `tests/.run`, which git ignores; only the locks of ports are shared by all
//! checkouts on a machine. It does not create processes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::net::TcpSocket;

/// How long a test waits for what has to happen: what a machine needs that is busy with others, and less than the minute for
/// which a server of the tests hangs. A good run comes nowhere near it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// The same where a process begins or ends, or a record is written: the journal alone may wait half a minute for its disk.
pub(crate) const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder `tests`.
pub(crate) fn tests() -> PathBuf {
    root().join("tests")
}

/// The folder of what `tests/run` installed; a test that needs it says so when it is not there.
pub(crate) fn installed(what: &str) -> PathBuf {
    let folder = tests().join(".peers").join(what);
    assert!(folder.join(".installed").exists(), "`{what}` is not installed; help: run `tests/run` once");
    folder
}

/// A new folder for one test, kept after it: a failed test is read there.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = scratch_root().join(format!("{}-{number}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The folder of everything that a run writes.
pub(crate) fn scratch_root() -> PathBuf {
    let folder = tests().join(".run");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes this into `file` as an administrator's tools do, a new file in the place of the old one: a gateway that looks at
/// that moment finds the one or the other. What is hidden it does not look at.
pub(crate) fn replace(file: &Path, text: &str) {
    let new = file.with_file_name(format!(".{}.new", file.file_name().unwrap().display()));
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// Asks `ready` again and again until it answers, at most `limit`; panics with `what` when it never does.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(began.elapsed() < limit, "not in {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A TCP port of 127.0.0.1 that nobody listens on, and that nobody else is given while this process lives: it is locked
/// among the tests, and lies below the ports that the kernel gives out by itself.
pub(crate) fn free_port() -> u16 {
    static LOCKED: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("tollgate-test-ports");
    fs::create_dir_all(&folder).unwrap();
    let first = std::process::id() % PORTS;
    for step in 0..PORTS {
        let port = u16::try_from(PORT_FIRST + (first + step) % PORTS).unwrap();
        let lock = File::create(folder.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && is_free(port) {
            LOCKED.lock().push(lock);
            return port;
        }
    }
    panic!("no free port");
}

/// Nothing listens for that, not even for a moment: a process that is created just then would hold it open.
fn is_free(port: u16) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).is_ok()
}

const PORT_FIRST: u32 = 20_000;
const PORTS: u32 = 10_000;
