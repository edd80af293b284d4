//! How does a test put a program behind the gateway?
//!
//! A server on standard input and output, in the shell, whose behaviour a test names; it keeps what it saw. It asserts
//! nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{gateway::Setup, place, recorder::Era};

/// A scripted program, and what its processes have left behind.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    folder: PathBuf,
    era: Era,
    mood: &'static str,
}

impl Program {
    /// A program for the upstream `id` of `setup`, whose processes are in this mood.
    pub(crate) fn new(setup: &Setup, id: &str, era: Era, mood: &'static str) -> Self {
        let folder = setup.folder().join(format!("program-{id}"));
        fs::create_dir_all(&folder).unwrap();
        Self { folder, era, mood }
    }

    /// Its `command`, with these words after the script's own.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        let script = place::tests().join("harness/program.sh");
        let era = if self.era == Era::Modern { "modern" } else { "legacy" };
        let folder = self.folder.display().to_string();
        let mut all = vec!["sh", script.to_str().unwrap(), &folder, era, self.mood];
        all.extend(words);
        format!("command = {all:?}")
    }

    /// The process ids of all that were started, in order.
    pub(crate) fn started(&self) -> Vec<u32> {
        numbers(&self.folder.join("started"))
    }

    /// What its processes have started in turn.
    pub(crate) fn grandchildren(&self) -> Vec<u32> {
        numbers(&self.folder.join("grandchildren"))
    }

    /// Every line that reached one of its processes.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.started().into_iter().flat_map(|process| self.seen_by(process)).collect()
    }

    /// Every line that reached this process.
    pub(crate) fn seen_by(&self, process: u32) -> Vec<String> {
        self.file(&format!("seen.{process}")).lines().map(str::to_owned).collect()
    }

    /// A file that it wrote.
    pub(crate) fn file(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join(name)).unwrap_or_default()).into_owned()
    }

    /// Waits until nothing of it runs.
    pub(crate) fn all_gone(&self, limit: Duration) {
        let all = [self.started(), self.grandchildren()].concat();
        assert!(!all.is_empty(), "nothing was ever started");
        place::wait_for(&format!("the end of {all:?}"), limit, || (!all.iter().any(|id| runs(*id))).then_some(()));
    }

    /// The ids of its processes that run.
    pub(crate) fn running(&self) -> Vec<u32> {
        self.started().into_iter().filter(|id| runs(*id)).collect()
    }
}

/// Whether a process runs; one that has ended and was not yet collected does not.
pub(crate) fn runs(process: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("stat")).unwrap_or_default();
    status.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

fn numbers(file: &Path) -> Vec<u32> {
    fs::read_to_string(file).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}
