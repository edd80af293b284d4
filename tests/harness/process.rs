//! How does a test run another program?
//!
//! Each program is started in a process group of its own, with its output in files, and the group is ended when the
//! value is dropped. No other process is ever signalled.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::place;

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    folder: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its output goes to `NAME.out` and `NAME.err` in `folder`.
    pub(crate) fn start(name: &str, folder: &Path, mut command: Command) -> Self {
        let open = |end: &str| File::create(folder.join(format!("{name}.{end}"))).unwrap();
        command.stdin(Stdio::null()).stdout(open("out")).stderr(open("err")).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("`{name}` does not start: {error}"));
        Self { child, name: name.to_owned(), folder: folder.to_owned(), ended: None }
    }

    /// What it wrote to its standard output so far.
    pub(crate) fn output(&self) -> String {
        read(&self.folder.join(format!("{}.out", self.name)))
    }

    /// What it wrote to its standard error so far.
    pub(crate) fn errors(&self) -> String {
        read(&self.folder.join(format!("{}.err", self.name)))
    }

    /// Waits until `ready` has an answer; panics with what the program wrote when it ends or takes too long.
    pub(crate) fn until<T>(&mut self, limit: Duration, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let what = format!("`{}` ready", self.name);
        place::wait_for(&what, limit, || {
            if let Some(status) = self.ended() {
                panic!("`{}` ended ({status}):\n{}\n{}", self.name, self.output(), self.errors());
            }
            ready(self)
        })
    }

    /// Waits for the line `listening PORT` and gives the port.
    pub(crate) fn port(&mut self) -> u16 {
        self.until(place::DISK_PATIENCE, |process| {
            let output = process.output();
            let line = output.lines().find_map(|line| line.strip_prefix("listening "))?;
            output.contains(&format!("listening {line}\n")).then(|| line.parse().unwrap())
        })
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.ended = self.ended.or_else(|| self.child.try_wait().unwrap());
        self.ended
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("`{}` ended", self.name);
        place::wait_for(&what, limit, || self.ended())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM to its process group.
    pub(crate) fn terminate(&mut self) {
        self.signal("TERM");
    }

    /// Sends SIGKILL to its process group, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        let status = self.wait(place::DISK_PATIENCE);
        assert!(status.signal().is_some() || status.code().is_some(), "neither exited nor signalled");
    }

    /// The program that has not been waited for still owns its id, so the signal cannot reach a stranger.
    pub(crate) fn signal(&mut self, signal: &str) {
        if self.ended().is_none() {
            let group = format!("-{}", self.child.id());
            let sent = Command::new("/bin/sh").args(["-c", "kill -s \"$0\" -- \"$1\"", signal, &group]).status();
            assert!(sent.is_ok(), "/bin/sh does not start");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal("KILL");
            drop(self.child.wait());
        }
    }
}

fn read(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}
