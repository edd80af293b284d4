//! How do the parts become a gateway that runs?
//!
//! Reads the configuration, opens the journal, puts the stages together and gives them to the edge; keeps configuration,
//! policies and catalogue up to date while it runs, and closes the journal last. It answers no request itself.

use std::{
    borrow::Cow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    admin,
    audit::{
        journal::{self, Journal, OpenFault},
        record::{self, Subject},
    },
    ceiling::Ceilings,
    clock,
    config::{
        Config, Environment, Report, UpstreamId,
        reload::{self, Change, Parts},
    },
    edge::{self, Edge, Metadata},
    facade::Facade,
    lifecycle::{Estate, Gateway, Rules},
    policy::{Policies, load},
    secret,
    state::{Rates, Store, StoreFault},
    tasks::Tasks,
    telemetry::{Telemetry, metrics},
};

/// What to serve, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// `upstreams.toml`.
    pub config: PathBuf,
    /// Take the listening sockets over from the process that runs.
    pub upgrade: bool,
    /// A folder of our own, for the socket of an upgrade.
    pub run_directory: PathBuf,
    /// What is logged: the grammar of `RUST_LOG`.
    pub log: String,
}

/// Why the gateway does not run, or ran and ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something is wrong with the configuration or the policies; all of it is told.
    #[error("{0}")]
    Config(Report),
    /// The journal cannot be used, so nothing may be served.
    #[error("the journal cannot be used: {0}")]
    Journal(#[from] OpenFault),
    /// A part could not be built.
    #[error("{0}")]
    Part(String),
    /// The listeners.
    #[error(transparent)]
    Edge(#[from] edge::Failure),
    /// Not all of the journal is known to be on the disk.
    #[error("the journal could not be closed: the last records may be missing")]
    JournalNotClosed,
}

/// Serves until told to end (SIGTERM), then finishes what has begun and closes the journal. Blocks; call it outside of
/// any runtime.
///
/// # Errors
/// Every [`Failure`].
pub fn serve(options: &Options) -> Result<(), Failure> {
    if let Err(error) = secret::keep_from_cores() {
        tracing::warn!(%error, "a crash may leave secrets in a core file");
    }
    let environment = Environment::process();
    let (config, watch) = reload::open(options.config.clone(), environment);
    let config = Arc::new(config.map_err(Failure::Config)?);
    let rates = Arc::new(Rates::new(RATE_KEYS_MAX));
    let rules = rules(&config, &rates).map_err(Failure::Config)?;
    let telemetry = Telemetry::start(&config.telemetry, &options.log).map_err(Failure::Part)?;
    let store = Store::open(&config.state).map_err(Failure::Part)?;
    let estate = Estate::build(Arc::clone(&config), rules, store.clone()).map_err(Failure::Part)?;
    // Last of what can fail, so that what is opened is closed, and a start that was none leaves no record.
    let journal = Arc::new(Journal::open(&config.audit)?);
    let served = run(options, (config, watch), (estate, rates), (&journal, &telemetry));
    store.leave();
    let closed = close(&journal, served.is_ok());
    telemetry.stop();
    served?;
    if closed { Ok(()) } else { Err(Failure::JournalNotClosed) }
}

/// Puts the parts together, and serves until told to end.
fn run(
    options: &Options,
    (config, watch): (Arc<Config>, reload::Watch),
    (estate, rates): (Estate, Arc<Rates>),
    (journal, telemetry): (&Arc<Journal>, &Telemetry),
) -> Result<(), Failure> {
    let policy_set = Arc::clone(estate.rules.load().policies.digest());
    let store = estate.store.clone();
    let metadata = Arc::new(ArcSwap::from_pointee(estate.metadata()));
    let tasks = Tasks::default();
    let gateway = Gateway::new(estate, Arc::clone(journal), telemetry.spans().clone(), tasks.clone());
    let gateway = Arc::new(gateway.map_err(Failure::Part)?);
    begin(&gateway)?;

    let facade = Arc::new(Facade::new(Arc::clone(&gateway)).map_err(Failure::Part)?);
    let kept = Arc::clone(&facade);

    let (draining, drains) = watch::channel(false);
    let [heeding, watching, fitting] = [(); 3].map(|()| Arc::clone(&gateway));
    let beginning = work(Arc::clone(&gateway), Arc::clone(&config), policy_set, drains.clone());
    let began = Arc::clone(&config);
    let follower = Follower {
        gateway: Arc::clone(&gateway),
        metadata: Arc::clone(&metadata),
        rates,
        began,
        owed: AtomicBool::default(),
    };
    let follow = watch.run(move |change| follower.apply(change));
    edge::run(Edge {
        pages: admin::pages(readiness(&gateway, drains), || metrics::render(metrics())),
        gateway,
        facade,
        config,
        metadata,
        tasks,
        draining,
        background: vec![
            Box::pin(beginning),
            Box::pin(follow),
            Box::pin(async move { store.follow().await }),
            Box::pin(async move { heeding.follow_revocations().await }),
            Box::pin(async move { watching.keep_vigil().await }),
            Box::pin(async move { fitting.keep_fit().await }),
            Box::pin(async move { kept.keep().await }),
        ],
        run_directory: options.run_directory.clone(),
        upgrade: options.upgrade,
    })?;
    Ok(())
}

/// What `policies/` says, checked.
///
/// # Errors
/// All that is wrong with it.
pub fn rules(config: &Config, rates: &Arc<Rates>) -> Result<Rules, Report> {
    let folder = &config.gateway.policies;
    let ceilings =
        load::source(folder, CEILINGS).and_then(|source| Ceilings::parse(source.as_ref(), Arc::clone(rates)));
    let policies = Policies::load(folder);
    match (policies, ceilings) {
        (Ok(policies), Ok(ceilings)) => Ok(Rules { policies, ceilings }),
        (policies, ceilings) => {
            let mut report = Report::default();
            for problem in policies.err().into_iter().chain(ceilings.err()).flatten() {
                report.push(problem);
            }
            Err(report)
        }
    }
}

/// The others on the folder know of this process, and it of what is revoked, before anybody is served.
fn begin(gateway: &Gateway) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Part(error.to_string()))?;
    let begun = runtime.block_on(async {
        gateway.estate().store.join().await?;
        gateway.read_revocations().await
    });
    begun.map_err(|fault: StoreFault| Failure::Part(fault.to_string()))
}

/// Everything that goes on beside the listeners.
async fn work(gateway: Arc<Gateway>, config: Arc<Config>, policy_set: Arc<str>, mut drains: watch::Receiver<bool>) {
    let version = env!("CARGO_PKG_VERSION");
    let (listen, admin_listen) = (config.gateway.listen, config.gateway.admin_listen);
    tracing::info!(version, %listen, %admin_listen, config = config.digest, policy_set = &*policy_set, "serving");
    let start = record::Start { version, config: &config.digest, policy_set: &policy_set };
    if let Err(refusal) = gateway.journal().write(&start).await {
        tracing::error!(why = %refusal.inside(), "the start could not be recorded");
    }
    gateway.keep_catalogue();
    tokio::select! {
        // An error says that nobody can say so any more, which comes to the same.
        _drains = drains.wait_for(|draining| *draining) => {}
        () = gateway.sweep() => {}
    }
    gateway.drain();
}

/// Takes changes of files over into the gateway that runs: all of a change, or nothing of it.
struct Follower {
    gateway: Arc<Gateway>,
    metadata: Metadata,
    rates: Arc<Rates>,
    /// What was in force at the start.
    began: Arc<Config>,
    /// Whether `upstreams.toml` is other than what is in force: it is taken over with whatever mends it.
    owed: AtomicBool,
}

impl Follower {
    fn apply(&self, change: Change) {
        let estate = self.gateway.estate();
        let Parts { estate: described, certificates, policies } = change.parts;
        match change.config {
            Err(report) => self.rejected(Subject::Config, &estate.config.digest, report.messages()),
            Ok(config) if described || certificates || self.owed.load(Ordering::Relaxed) => {
                self.reconfigured(&estate, Arc::new(config))
            }
            Ok(_) if policies => self.ruled(&estate),
            Ok(_) => {}
        }
    }

    fn reconfigured(&self, estate: &Estate, config: Arc<Config>) {
        let (before, digest) = (estate.config.digest.clone(), config.digest.clone());
        let late = reload::after_restart(&self.began, &config);
        let next = rules(&config, &self.rates)
            .map_err(|report| report.messages().collect())
            .and_then(|rules| estate.succeeded(config, rules).map_err(|why| vec![why]));
        match next {
            Err(why) => self.rejected(Subject::Config, &before, why.into_iter()),
            Ok(next) => {
                self.metadata.store(Arc::new(next.metadata()));
                self.gateway.succeed(next);
                self.owed.store(false, Ordering::Relaxed);
                // They were read with it.
                metrics().changes_rejected.with([Subject::Policy.as_str()]).set(0);
                self.applied(Subject::Config, &digest, &before);
                if !late.is_empty() {
                    tracing::warn!(keys = late.join(", "), "not in force before a restart or an upgrade");
                }
            }
        }
    }

    fn ruled(&self, estate: &Estate) {
        let before = Arc::clone(estate.rules.load().policies.digest());
        match rules(&estate.config, &self.rates) {
            Err(report) => self.rejected(Subject::Policy, &before, report.messages()),
            Ok(rules) => {
                let digest = Arc::clone(rules.policies.digest());
                self.gateway.rule(rules);
                self.applied(Subject::Policy, &digest, &before);
            }
        }
    }

    fn applied(&self, subject: Subject, digest: &str, before: &str) {
        metrics().changes_rejected.with([subject.as_str()]).set(0);
        tracing::info!(subject = subject.as_str(), digest, before, "a change is in force");
        self.note(&record::Change { subject, digest, previous: Some(before), rejected: None });
    }

    /// What was in force stays in force; that is said loudly, for nobody sees it otherwise.
    fn rejected(&self, subject: Subject, before: &str, why: impl Iterator<Item = String>) {
        let why = why.collect::<Vec<_>>().join("; ");
        self.owed.fetch_or(subject == Subject::Config, Ordering::Relaxed);
        metrics().changes_rejected.with([subject.as_str()]).set(1);
        let subject_name = subject.as_str();
        tracing::error!(
            subject = subject_name,
            in_force = before,
            why,
            "a change is not taken over; see `tollgate check`"
        );
        self.note(&record::Change { subject, digest: "", previous: Some(before), rejected: Some(&why) });
    }

    fn note(&self, change: &record::Change<'_>) {
        if !self.gateway.journal().note(journal::new_id(), change) {
            metrics().audit_failures.increment();
        }
    }
}

fn readiness(gateway: &Arc<Gateway>, drains: watch::Receiver<bool>) -> admin::Readiness {
    let (journal, keys, catalogue) = (Arc::clone(gateway), Arc::clone(gateway), Arc::clone(gateway));
    let store = gateway.estate().store.clone();
    let waits_until = clock::now().plus(FIRST_READING);
    admin::Readiness::new(drains)
        .with("journal", move || {
            (!journal.journal().healthy()).then_some(Cow::Borrowed("the journal cannot be written"))
        })
        .with("state", move || {
            store.is_estranged().then_some(Cow::Borrowed("a gateway on the folder of `[state]` seals with another key"))
        })
        .with("issuer_keys", move || {
            let ready = keys.estate().identity.ready(clock::now());
            (!ready).then_some(Cow::Borrowed("no issuer's keys are known"))
        })
        .with("catalogue", move || {
            let unread = catalogue.estate().unread();
            let waits = !unread.is_empty() && clock::now() < waits_until;
            let names = || unread.iter().map(UpstreamId::to_string).collect::<Vec<_>>().join(", ");
            waits.then(|| Cow::Owned(format!("upstreams not read yet: {}", names())))
        })
}

/// Seals the journal, on a runtime of its own: those of the edge have ended.
fn close(journal: &Journal, served: bool) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return false };
    runtime.block_on(async {
        let reason = if served { "told to end" } else { "could not serve" };
        let stopped = journal.write(&record::Stop { reason }).await.is_ok();
        journal.close().await && stopped
    })
}

/// The file of the ceilings, beside the policies.
const CEILINGS: &str = "ceilings.toml";

/// After the start, traffic waits this long at most for upstreams that do not answer: they are served as degraded.
const FIRST_READING: Duration = Duration::from_secs(5);

/// Callers that the ceilings count apart at once. Those with nothing counted are forgotten; were there more with
/// something, calls of new ones would be refused.
const RATE_KEYS_MAX: usize = 100_000;
