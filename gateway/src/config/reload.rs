//! Has what the administrator asked for changed?
//!
//! Watches `upstreams.toml`, the secrets and certificates that it names, and the policies' folder, and tells what is
//! different, with the configuration judged anew. What counts is content, not time stamps or events: a file saved
//! unchanged is no change, and a link swapped somewhere above (as Kubernetes does with mounted volumes) is one.
//! It does not apply anything; on a problem whoever applies keeps what is in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::{Audit, Config, Environment, Report, check::Files, load_with_files};
use crate::digest::{Name, sha256};

/// What is different.
#[derive(Debug)]
pub struct Change {
    /// Which parts.
    pub parts: Parts,
    /// The configuration as it is now, judged whole.
    pub config: Result<Config, Report>,
}

/// The parts that change apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// `upstreams.toml` itself, or a secret that it names.
    pub estate: bool,
    /// A certificate, key or authority file that it names.
    pub certificates: bool,
    /// A file in the policies' folder.
    pub policies: bool,
}

/// What is watched, and what it looked like.
pub struct Watch {
    path: PathBuf,
    environment: Environment,
    files: Files,
    policies: Option<PathBuf>,
    seen: Seen,
}

/// Digests of the three parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    estate: [u8; 32],
    certificates: [u8; 32],
    policies: [u8; 32],
}

/// What differs from the start and is in force only after a restart or an upgrade.
#[must_use]
pub fn after_restart(began: &Config, now: &Config) -> Vec<&'static str> {
    let (gateway, limits) = ((&began.gateway, &now.gateway), (&began.limits, &now.limits));
    let journal =
        |audit: &Audit| Audit { arguments: began.audit.arguments, durability: began.audit.durability, ..audit.clone() };
    let differs = [
        ("gateway.listen", gateway.0.listen != gateway.1.listen),
        ("gateway.admin_listen", gateway.0.admin_listen != gateway.1.admin_listen),
        ("gateway.tls", gateway.0.tls != gateway.1.tls),
        ("gateway.workers", gateway.0.workers != gateway.1.workers),
        ("gateway.drain_ms", gateway.0.drain != gateway.1.drain),
        ("gateway.allowed_hosts", gateway.0.allowed_hosts != gateway.1.allowed_hosts),
        ("gateway.allowed_origins", gateway.0.allowed_origins != gateway.1.allowed_origins),
        ("gateway.public_url", gateway.0.public_url != gateway.1.public_url),
        ("audit", began.audit != journal(&now.audit)),
        ("telemetry", began.telemetry != now.telemetry),
        ("state", began.state != now.state),
        ("egress", began.facade.is_some() && began.egress != now.egress),
        ("facade", began.facade.is_some() != now.facade.is_some()),
        ("limits.body_bytes_max", limits.0.body_bytes_max != limits.1.body_bytes_max),
        ("limits.body_read_ms", limits.0.body_read != limits.1.body_read),
        ("limits.header_bytes_max", limits.0.header_bytes_max != limits.1.header_bytes_max),
        ("limits.header_read_ms", limits.0.header_read != limits.1.header_read),
        ("limits.handshake_ms", limits.0.handshake != limits.1.handshake),
        ("limits.idle_ms", limits.0.idle != limits.1.idle),
        ("limits.connections_max", limits.0.connections_max != limits.1.connections_max),
        ("limits.streams_max", limits.0.streams_max != limits.1.streams_max),
        ("limits.calls_max", limits.0.calls_max != limits.1.calls_max),
        ("limits.sessions_max", limits.0.sessions_max != limits.1.sessions_max),
        ("limits.session_idle_ms", limits.0.session_idle != limits.1.session_idle),
        ("limits.listeners_max", limits.0.listeners_max != limits.1.listeners_max),
        ("limits.holds_max", limits.0.holds_max != limits.1.holds_max),
    ];
    differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// Loads the configuration at `path`, and remembers what it looked like so that no later change is missed.
pub fn open(path: PathBuf, environment: Environment) -> (Result<Config, Report>, Watch) {
    let seen = Seen::default();
    let mut watch = Watch { path, environment, files: Files::default(), policies: None, seen };
    // Which files there are is known after loading. What they looked like is read before the loading that counts: a
    // change in between is then seen as one, at the price of reading twice.
    watch.load().ok();
    watch.seen = watch.look();
    (watch.load(), watch)
}

impl Watch {
    /// Calls `changed` at every change, until it is dropped. A wake-up by the system is the fast way; looking at
    /// intervals is the sure one, where the system's way is not available or says nothing. Wake-ups count from this
    /// call on, not from the first poll.
    pub fn run(self, changed: impl FnMut(Change) + Send) -> impl Future<Output = ()> + Send {
        let (wake, woken) = mpsc::channel(1);
        let mut folders = Folders { watcher: watcher(wake), watched: BTreeSet::new() };
        folders.watch(&self);
        self.follow(folders, woken, changed)
    }

    async fn follow(
        mut self,
        mut folders: Folders,
        mut woken: mpsc::Receiver<()>,
        mut changed: impl FnMut(Change) + Send,
    ) {
        loop {
            // Without a watcher nobody holds the other end; the interval then is the whole wait.
            match tokio::time::timeout(INTERVAL, woken.recv()).await {
                // An editor writes in several steps, and so does a volume's update: look when it is quiet.
                Ok(Some(())) => {
                    tokio::time::sleep(QUIET).await;
                    while woken.try_recv().is_ok() {}
                }
                Ok(None) => tokio::time::sleep(INTERVAL).await,
                Err(_) => {}
            }
            let looked = tokio::task::spawn_blocking(move || {
                let change = self.change();
                (self, change)
            });
            // The task fails only where the runtime is shutting down or the look panicked; neither leaves a watch.
            let Ok((watch, change)) = looked.await else { return };
            self = watch;
            folders.watch(&self);
            if let Some(change) = change {
                changed(change);
            }
        }
    }

    /// Looks once, and says what is different from the last look.
    #[must_use]
    pub fn change(&mut self) -> Option<Change> {
        let seen = self.look();
        let parts = Parts {
            estate: seen.estate != self.seen.estate,
            certificates: seen.certificates != self.seen.certificates,
            policies: seen.policies != self.seen.policies,
        };
        if !(parts.estate || parts.certificates || parts.policies) {
            return None;
        }
        let (files, policies) = (self.files.clone(), self.policies.clone());
        let config = self.load();
        // Other files are named now: what they look like is the new beginning, not another change.
        self.seen = if (&files, &policies) == (&self.files, &self.policies) { seen } else { self.look() };
        Some(Change { parts, config })
    }

    fn load(&mut self) -> Result<Config, Report> {
        let (config, files) = load_with_files(&self.path, &self.environment);
        match &config {
            Ok(config) => {
                self.files = files;
                self.policies = Some(config.gateway.policies.clone());
            }
            // A check that found problems may not have come to every file; those in force still count.
            Err(_) => {
                self.files.values.extend(files.values);
                self.files.certificates.extend(files.certificates);
            }
        }
        config
    }

    fn look(&self) -> Seen {
        let mut estate = Listing::default();
        estate.add(&self.environment, &self.path);
        for path in &self.files.values {
            estate.add(&self.environment, path);
        }
        let mut certificates = Listing::default();
        for path in &self.files.certificates {
            certificates.add(&self.environment, path);
        }
        let mut policies = Listing::default();
        for path in self.policies.as_deref().map(files_below).unwrap_or_default() {
            policies.add(&self.environment, &path);
        }
        Seen { estate: estate.digest(), certificates: certificates.digest(), policies: policies.digest() }
    }
}

/// The folders that the system watches for us.
struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Folders {
    /// Folders, not files: a file that is replaced by another would take its watch along.
    fn watch(&mut self, watch: &Watch) {
        let Some(watcher) = &mut self.watcher else { return };
        let files = watch.files.values.iter().chain(&watch.files.certificates).chain([&watch.path]);
        let folders = files.filter_map(|file| file.parent()).map(|folder| (folder, RecursiveMode::NonRecursive));
        let policies = watch.policies.as_deref().map(|folder| (folder, RecursiveMode::Recursive));
        for (folder, mode) in folders.chain(policies) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            if !self.watched.contains(folder) && watcher.watch(folder, mode).is_ok() {
                self.watched.insert(folder.to_owned());
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Files with the digests of their content, in the order of their paths.
#[derive(Default)]
struct Listing(BTreeMap<PathBuf, Vec<u8>>);

impl Listing {
    fn add(&mut self, environment: &Environment, path: &Path) {
        // That a file cannot be read is a state of it like any other; what the reason is does not matter here.
        let content = environment.file(path).map(|content| sha256(&content.bytes).to_vec()).unwrap_or_default();
        self.0.insert(path.to_owned(), content);
    }

    fn digest(&self) -> [u8; 32] {
        let mut name = Name::default();
        for (path, content) in &self.0 {
            name.add(path.as_os_str().as_encoded_bytes());
            name.add(content);
        }
        name.finish()
    }
}

/// The files in `folder` and its folders, hidden ones left out: editors and Kubernetes keep their own there.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if files.len().saturating_add(open.len()) >= FILES_MAX {
                return files;
            }
            let path = entry.path();
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if is_hidden {
                continue;
            }
            // A linked folder could lead back above itself; a linked file is read like any other.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

/// The system's way of waking us, where it has one.
fn watcher(wake: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let notice = move |event: notify::Result<notify::Event>| {
        // Our own looking is an access too, and must not wake us again. A full channel wakes already.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            wake.try_send(()).ok();
        }
    };
    match notify::recommended_watcher(notice) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "no file notification; looking at intervals");
            None
        }
    }
}

/// How often to look where nothing wakes us.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long a change may take to be complete.
const QUIET: Duration = Duration::from_millis(200);

/// Files in the policies' folder that are looked at; beyond, a folder was named by mistake.
const FILES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

    use super::{Environment, Parts, Watch, open};

    const TEXT: &str = r#"
[gateway]
public_url = "https://mcp.example.com"
listen = "127.0.0.1:8443"
[[issuers]]
issuer = "https://login.example.com"
algorithms = ["ES256"]
[audit]
directory = "audit"
[upstreams.a]
url = "https://a.internal/mcp"
grant = { strategy = "static_secret", value = { file = "secret" } }
"#;

    const NOTHING: Parts = Parts { estate: false, certificates: false, policies: false };

    fn estate(folder: &Path) -> Watch {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir(folder.join("policies")).unwrap();
        fs::write(folder.join("secret"), "one").unwrap();
        fs::set_permissions(folder.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.join("upstreams.toml"), TEXT).unwrap();
        let (config, watch) = open(folder.join("upstreams.toml"), Environment::Given(BTreeMap::new()));
        config.unwrap();
        watch
    }

    fn parts(watch: &mut Watch) -> Parts {
        watch.change().map_or(NOTHING, |change| change.parts)
    }

    #[test]
    fn only_what_changed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = estate(folder.path());
        assert_eq!(parts(&mut watch), NOTHING);

        fs::write(folder.path().join("upstreams.toml"), TEXT).unwrap();
        assert_eq!(parts(&mut watch), NOTHING, "saved unchanged");

        fs::write(folder.path().join("secret"), "two").unwrap();
        assert_eq!(parts(&mut watch), Parts { estate: true, ..NOTHING });

        fs::write(folder.path().join("policies/a.cedar"), "permit").unwrap();
        assert_eq!(parts(&mut watch), Parts { policies: true, ..NOTHING });

        fs::write(folder.path().join("policies/.a.cedar.swp"), "permit").unwrap();
        assert_eq!(parts(&mut watch), NOTHING, "an editor's own");
    }

    #[test]
    fn a_mistake_is_told_once_and_so_is_its_correction() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = estate(folder.path());
        fs::write(folder.path().join("upstreams.toml"), "[gatway]").unwrap();
        assert!(watch.change().unwrap().config.is_err());
        assert_eq!(parts(&mut watch), NOTHING);
        fs::write(folder.path().join("secret"), "two").unwrap();
        assert_eq!(parts(&mut watch), Parts { estate: true, ..NOTHING }, "files in force are still watched");
        fs::write(folder.path().join("upstreams.toml"), TEXT).unwrap();
        assert!(watch.change().unwrap().config.is_ok());
    }

    #[test]
    fn a_policy_behind_a_swapped_link_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = estate(folder.path());
        let policies = folder.path().join("policies");
        for version in ["..1", "..2"] {
            fs::create_dir(policies.join(version)).unwrap();
            fs::write(policies.join(version).join("a.cedar"), version).unwrap();
        }
        symlink("..1", policies.join("..data")).unwrap();
        symlink("..data/a.cedar", policies.join("a.cedar")).unwrap();
        assert_eq!(parts(&mut watch), Parts { policies: true, ..NOTHING });
        symlink("..2", policies.join("..new")).unwrap();
        fs::rename(policies.join("..new"), policies.join("..data")).unwrap();
        assert_eq!(parts(&mut watch), Parts { policies: true, ..NOTHING });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_wakes_the_watch() {
        let folder = tempfile::tempdir().unwrap();
        let watch = estate(folder.path());
        let (send, mut receive) = tokio::sync::mpsc::channel(1);
        let running = crate::tasks::background(watch.run(move |change| send.try_send(change.parts).unwrap()));
        fs::write(folder.path().join("policies/a.cedar"), "permit").unwrap();
        let told = tokio::time::timeout(std::time::Duration::from_secs(30), receive.recv()).await;
        assert_eq!(told.unwrap(), Some(Parts { policies: true, ..NOTHING }));
        running.abort();
    }
}
