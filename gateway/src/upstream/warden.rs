//! Who ends the programs when the gateway can no longer do it itself?
//!
//! A process beside the gateway that does nothing but wait for the gateway's end, however that comes: killed, out of
//! memory, a second signal. Then it kills the process groups that are still alive, grandchildren with them. (Asking the
//! kernel for a signal at the parent's death would take unsafe code, reaches no grandchildren, and comes when the *thread*
//! ends that started the child.) What leaves its group goes its own way; only a container or a unit's cgroup holds that.

use std::{collections::BTreeSet, io::BufRead, process::Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt as _,
    process::{ChildStdin, Command},
    sync::Mutex,
};

/// The process group of one program, which ends with this value.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

impl Group {
    /// The group that `leader`, which was started in a group of its own, leads.
    pub(super) fn led_by(leader: u32) -> Self {
        Self(i32::try_from(leader).ok().and_then(Pid::from_raw))
    }

    /// Asks everybody in it to end.
    pub(super) fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// Ends everybody in it, once: after that the number may be somebody else's.
    pub(super) fn kill(&mut self) {
        self.send(Signal::KILL);
        self.0 = None;
    }

    fn send(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // An error says that nobody is left.
            kill_process_group(group, signal).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The gateway's side: tells the process which groups there are.
#[derive(Debug, Default)]
pub(super) struct Warden(Mutex<Watch>);

#[derive(Debug, Default)]
struct Watch {
    groups: BTreeSet<u32>,
    pipe: Option<ChildStdin>,
}

impl Warden {
    /// From now on `group` ends with the gateway.
    pub(super) async fn watch(&self, group: u32) {
        let mut watch = self.0.lock().await;
        watch.groups.insert(group);
        watch.say(&format!("+{group}\n")).await;
    }

    /// The group has ended.
    pub(super) async fn release(&self, group: u32) {
        let mut watch = self.0.lock().await;
        watch.groups.remove(&group);
        watch.say(&format!("-{group}\n")).await;
    }
}

impl Watch {
    async fn say(&mut self, word: &str) {
        if let Some(pipe) = &mut self.pipe
            && pipe.write_all(word.as_bytes()).await.is_ok()
        {
            return;
        }
        // None is there, or it was ended by somebody: another one learns of all.
        match start() {
            Ok(mut pipe) => {
                let all: String = self.groups.iter().map(|group| format!("+{group}\n")).collect();
                self.pipe = pipe.write_all(all.as_bytes()).await.is_ok().then_some(pipe);
            }
            Err(error) => tracing::error!(%error, "programs will outlive a gateway that is killed: no warden"),
        }
    }
}

/// In a group of its own, so that what a terminal or a script sends to the gateway's group does not end it first.
fn start() -> std::io::Result<ChildStdin> {
    let own = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(own);
    command.arg(WARDEN).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()?.stdin.take().ok_or_else(|| std::io::Error::other("no pipe to it"))
}

/// The other side: reads which groups there are until the gateway is gone, and kills those that are left.
pub fn stand_by(gateway: impl BufRead) {
    let mut groups: BTreeSet<u32> = BTreeSet::new();
    for line in gateway.lines().map_while(Result::ok) {
        let number = |text: &str| text.parse::<u32>().ok();
        if let Some(group) = line.strip_prefix('+').and_then(number) {
            groups.insert(group);
        } else if let Some(group) = line.strip_prefix('-').and_then(number) {
            groups.remove(&group);
        }
    }
    groups.into_iter().for_each(|group| Group::led_by(group).kill());
}

/// The command line's word for [`stand_by`].
const WARDEN: &str = "warden";
