//! How does the process begin, hand over and end?
//!
//! pingora's server around the two listeners, with signals of our own. pingora would sleep its whole grace period on
//! SIGTERM and then cut what is open; here a drain ends as soon as nothing is left to do (decision 0001).

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, mpsc as finish},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    apps::ServerApp,
    listeners::{L4BufferSettings, ListenerConfig},
    server::{
        ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
        configuration::{Opt, ServerConf},
    },
    services::{Service, listening},
};
use tokio::{
    net::TcpSocket,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    connection::{Bounds, Listener},
    http::{Door, Inside, Metadata},
    pages::Pages,
    seats::Seats,
    tls::{Certificates, TlsFault},
};
use crate::{
    config::Config,
    facade::Facade,
    identity::Certificate,
    lifecycle::Gateway,
    tasks::{self, Tasks},
};

/// Everything that the main loop needs.
pub struct Edge {
    /// Who answers.
    pub gateway: Arc<Gateway>,
    /// Who answers what belongs to an authorization server.
    pub facade: Arc<Facade>,
    /// Addresses, names and limits; read once.
    pub config: Arc<Config>,
    /// The metadata documents; what is stored here is served from the next request on.
    pub metadata: Metadata,
    /// What the admin listener shows.
    pub pages: Pages,
    /// What a drain waits for, besides connections.
    pub tasks: Tasks,
    /// Becomes true when the drain begins; whoever holds something open subscribes.
    pub draining: watch::Sender<bool>,
    /// Work without end, begun on the gateway's own runtime when it is there: refreshers, watchers.
    pub background: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// A folder of our own for the socket of the upgrade.
    pub run_directory: PathBuf,
    /// Take the listening sockets over from the process that runs (it gets SIGQUIT), instead of opening them.
    pub upgrade: bool,
}

impl std::fmt::Debug for Edge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Edge").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why the main loop could not begin, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The listener's certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// An address cannot be listened on.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The run directory cannot be made, or is not ours alone.
    #[error("cannot use `{}` as run directory: {source}", path.display())]
    RunDirectory {
        /// The folder.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A listener or the main loop ended by itself.
    #[error("{0} ended unexpectedly; the log says why")]
    Ended(&'static str),
}

/// What somebody asks the process to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGTERM, SIGINT: finish what has begun, then end. A second one ends at once.
    Drain,
    /// SIGQUIT: hand the sockets to the process that waits for them, then the same.
    HandOver,
}

/// Serves until told to end; returns when all work is done or the drain's time is up.
///
/// # Errors
/// Where nothing can be served: see [`Failure`].
pub fn run(edge: Edge) -> Result<(), Failure> {
    let inside = Inside::Gateway(Arc::clone(&edge.gateway), Arc::clone(&edge.facade));
    let (sender, orders) = mpsc::channel(ORDERS_MAX);
    let bounds = Bounds::of(&edge.config.limits);
    Assembly::new(edge, inside, bounds).run(orders, Some(sender))
}

/// The parts that [`run`] puts together.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) config: Arc<Config>,
    pub(super) inside: Inside,
    pub(super) metadata: Metadata,
    pub(super) pages: Pages,
    pub(super) tasks: Tasks,
    pub(super) draining: watch::Sender<bool>,
    pub(super) background: Background,
    pub(super) run_directory: PathBuf,
    pub(super) upgrade: bool,
    pub(super) bounds: Bounds,
}

/// Futures to begin on the runtime. Behind a lock only because pingora wants its services to be `Sync`.
pub(super) struct Background(pub(super) Mutex<Vec<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl std::fmt::Debug for Background {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Background")
    }
}

impl Assembly {
    fn new(edge: Edge, inside: Inside, bounds: Bounds) -> Self {
        let Edge { config, metadata, pages, tasks, draining, background, run_directory, upgrade, .. } = edge;
        let background = Background(Mutex::new(background));
        Self { config, inside, metadata, pages, tasks, draining, background, run_directory, upgrade, bounds }
    }

    /// Runs the server on a thread of its own, and returns when it ended, or when a hand-over left nothing to do: pingora
    /// then still sleeps, but nobody has to wait for that. `signals` is where signals become `orders`.
    pub(super) fn run(
        self,
        orders: mpsc::Receiver<Order>,
        signals: Option<mpsc::Sender<Order>>,
    ) -> Result<(), Failure> {
        let gateway = &self.config.gateway;
        if !self.upgrade {
            can_listen(gateway.listen)?;
            can_listen(gateway.admin_listen)?;
        }
        let run_directory = own_folder(&self.run_directory)?;
        let certificates = gateway.tls.as_ref().map(Certificates::load).transpose()?;
        if let Some(certificates) = &certificates {
            let gateway = self.inside.gateway();
            let disown =
                move |certificate: &Certificate| gateway.iter().for_each(|gateway| gateway.disown(certificate));
            self.background.0.lock().push(Box::pin(Arc::clone(certificates).follow(disown)));
        }
        let (finish, finished) = finish::sync_channel(FINISHES_MAX);
        let upgrade_socket = run_directory.join("upgrade.sock");
        let configuration = self.server_configuration(&upgrade_socket);
        let mut server = Server::new_with_opt_and_conf(
            Opt { upgrade: self.upgrade, daemon: false, nocapture: false, test: false, conf: None },
            configuration,
        );
        let seats = Seats::new(self.config.limits.connections_max);
        let drain = Drain {
            seats: Arc::clone(&seats),
            tasks: self.tasks.clone(),
            gateway: self.inside.gateway(),
            draining: self.draining.clone(),
            limit: gateway.drain,
            finish: finish.clone(),
        };
        let control = Control { orders: Mutex::new(Some(orders)), signals, drain, upgrade_socket };
        self.add_services(&mut server, certificates, seats, &finish);
        std::thread::Builder::new()
            .name("tollgate".to_owned())
            .spawn(move || {
                server.bootstrap();
                server.run(RunArgs { shutdown_signal: Box::new(control) });
                // Nobody listens any more where a hand-over ended first.
                drop(finish.try_send(Ok(())));
            })
            .map_err(|_no_thread| Failure::Ended("the main loop"))?;
        finished.recv().unwrap_or(Err(Failure::Ended("the main loop")))
    }

    fn server_configuration(&self, upgrade_socket: &Path) -> ServerConf {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let workers = self.config.gateway.workers;
        ServerConf {
            threads: if workers == 0 { cores() } else { workers },
            upgrade_sock: upgrade_socket.display().to_string(),
            // Only a daemon writes one, and the gateway is none.
            pid_file: upgrade_socket.with_extension("pid").display().to_string(),
            // Both matter after a hand-over only, and there `Drain` ends the process earlier.
            grace_period_seconds: Some(self.config.gateway.drain.as_secs().saturating_add(1)),
            graceful_shutdown_timeout_seconds: Some(0),
            ..ServerConf::default()
        }
    }

    fn add_services(
        self,
        server: &mut Server,
        certificates: Option<Arc<Certificates>>,
        seats: Arc<Seats>,
        finish: &finish::SyncSender<Result<(), Failure>>,
    ) {
        let gateway = &self.config.gateway;
        let taking_over = self.inside.gateway().filter(|_| self.upgrade);
        let door = Listener {
            answer: Arc::new(Door::new(self.inside, &self.config, self.metadata)),
            certificates,
            seats,
            tasks: self.tasks.clone(),
            bounds: self.bounds.clone(),
        };
        server.add_service(Listening {
            name: "the public listener",
            threads: None,
            service: Some(listening("mcp", gateway.listen, door)),
            background: self.background,
            taking_over: taking_over.clone(),
            draining: self.draining.clone(),
            // The door closes when the drain begins.
            open_until: self.draining.subscribe(),
            finish: finish.clone(),
        });
        let admin = Listener {
            answer: Arc::new(self.pages),
            certificates: None,
            seats: Seats::new(ADMIN_CONNECTIONS_MAX),
            tasks: self.tasks,
            bounds: self.bounds,
        };
        // The admin listener stays open to the end: it is where one sees that the gateway drains.
        let (never, open_until) = watch::channel(false);
        server.add_service(Listening {
            name: "the admin listener",
            threads: Some(1),
            service: Some(listening("admin", gateway.admin_listen, admin)),
            background: Background(Mutex::new(Vec::new())),
            taking_over,
            draining: never,
            open_until,
            finish: finish.clone(),
        });
    }
}

fn listening<A: ServerApp + Send + Sync + 'static>(name: &str, address: SocketAddr, app: A) -> listening::Service<A> {
    let mut service = listening::Service::new(name.to_owned(), app);
    // rustls and hyper have buffers of their own for reading, so pingora's 64 KiB a connection would only be held; the small
    // one for writing makes one packet of a TLS record's pieces.
    let buffers = L4BufferSettings::new(0, WRITE_BUFFER_BYTES);
    service.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(buffers));
    service
}

/// A listener as pingora's service, which closes by our watch rather than pingora's, and whose failure is noticed.
struct Listening<A> {
    name: &'static str,
    threads: Option<usize>,
    service: Option<listening::Service<A>>,
    background: Background,
    /// Where the sockets come from a predecessor, which accepts for as long as this one does not.
    taking_over: Option<Arc<Gateway>>,
    draining: watch::Sender<bool>,
    open_until: ShutdownWatch,
    finish: finish::SyncSender<Result<(), Failure>>,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Service for Listening<A> {
    async fn start_service(&mut self, sockets: Option<ListenFds>, mut handed_over: ShutdownWatch, acceptors: usize) {
        for work in self.background.0.lock().drain(..) {
            tasks::background(work);
        }
        let draining = self.draining.clone();
        tasks::background(async move {
            if handed_over.wait_for(|over| *over).await.is_ok() {
                draining.send_replace(true);
            }
        });
        if let Some(gateway) = self.taking_over.take() {
            // At the end of this time they are as good as down, and their tools are refused.
            drop(timeout(TAKEN_OVER_AFTER, knows_its_upstreams(&gateway)).await);
        }
        let Some(mut service) = self.service.take() else { return };
        let open_until = self.open_until.clone();
        // pingora panics where it cannot listen, and would go on without the listener.
        let served =
            tasks::background(async move { service.start_service(sockets, open_until, acceptors).await }).await;
        if served.is_err() {
            drop(self.finish.try_send(Err(Failure::Ended(self.name))));
        }
    }

    fn name(&self) -> &str {
        self.service.as_ref().map_or(self.name, |service| Service::name(service))
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.as_ref().and_then(Service::listen_addresses)
    }
}

/// Returns when every upstream was asked what it offers: a call for what is not known yet would be refused.
async fn knows_its_upstreams(gateway: &Gateway) {
    while !gateway.estate().unread().is_empty() {
        sleep(LOOK_AFTER).await;
    }
}

/// The end of all work.
#[derive(Debug, Clone)]
struct Drain {
    seats: Arc<Seats>,
    tasks: Tasks,
    /// Closed when nothing of it is asked any more.
    gateway: Option<Arc<Gateway>>,
    draining: watch::Sender<bool>,
    limit: Duration,
    finish: finish::SyncSender<Result<(), Failure>>,
}

impl Drain {
    /// Waits until connections and tasks have ended, at most the drain's time.
    async fn done(&self) {
        // In this order: tasks begin on connections.
        let all = async {
            self.seats.empty().await;
            self.tasks.idle(self.limit).await
        };
        if !timeout(self.limit, all).await.unwrap_or_default() {
            tracing::warn!(tasks = self.tasks.running(), "drain.cut_short");
        }
        if let Some(gateway) = &self.gateway {
            gateway.close().await;
        }
    }
}

/// What pingora asks when it wants to know whether to end.
#[derive(Debug)]
struct Control {
    orders: Mutex<Option<mpsc::Receiver<Order>>>,
    signals: Option<mpsc::Sender<Order>>,
    drain: Drain,
    upgrade_socket: PathBuf,
}

impl Control {
    /// Whether a successor waits in our own folder, which has stood there since the start: others may have cleaned it away,
    /// or somebody may have put one of theirs in its place, who would get the sockets.
    fn has_successor(&self) -> bool {
        let folder = self.upgrade_socket.parent();
        folder.is_some_and(|folder| is_ours_alone(folder).unwrap_or(false)) && self.upgrade_socket.exists()
    }
}

#[async_trait]
impl ShutdownSignalWatch for Control {
    async fn recv(&self) -> ShutdownSignal {
        if let Some(signals) = &self.signals {
            tasks::background(listen_to_signals(signals.clone()));
        }
        let Some(mut orders) = self.orders.lock().take() else { return ShutdownSignal::FastShutdown };
        loop {
            match orders.recv().await {
                // A hand-over to nobody would be an outage: pingora ends even if there is no taker.
                Some(Order::HandOver) if !self.has_successor() => {
                    tracing::error!(socket = %self.upgrade_socket.display(), "upgrade.no_successor");
                }
                Some(Order::HandOver) => {
                    tracing::info!("upgrade.begun");
                    tasks::background(end_after_hand_over(self.drain.clone(), orders));
                    return ShutdownSignal::GracefulUpgrade;
                }
                Some(Order::Drain) | None => break,
            }
        }
        tracing::info!(seconds_max = self.drain.limit.as_secs(), "drain.begun");
        self.drain.draining.send_replace(true);
        tokio::select! {
            () = self.drain.done() => tracing::info!("drain.done"),
            Some(_second) = orders.recv() => tracing::warn!("drain.abandoned"),
        }
        // Nothing is left, or nothing more is to be waited for: pingora need not sleep.
        ShutdownSignal::FastShutdown
    }
}

/// pingora asks for no further orders once it hands over, and sleeps its grace period to the end whatever happens.
async fn end_after_hand_over(drain: Drain, mut orders: mpsc::Receiver<Order>) {
    let mut draining = drain.draining.subscribe();
    let finished = async {
        // Fails only with the sender gone, and `drain` holds one.
        drop(draining.wait_for(|begun| *begun).await);
        drain.done().await;
    };
    tokio::select! {
        () = finished => tracing::info!("drain.done"),
        () = told_to_end(&mut orders) => tracing::warn!("drain.abandoned"),
    }
    drop(drain.finish.try_send(Ok(())));
}

/// A second SIGQUIT changes nothing: the successor may not be ready yet.
async fn told_to_end(orders: &mut mpsc::Receiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::HandOver) => {}
            Some(Order::Drain) => return,
            None => std::future::pending().await,
        }
    }
}

/// Turns signals into orders, for as long as somebody takes them.
async fn listen_to_signals(orders: mpsc::Sender<Order>) {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut quit), Ok(mut hangup)] = kinds.map(signal) else {
        tracing::error!("signals.unavailable");
        return;
    };
    let at_terminal = io::stdin().is_terminal();
    loop {
        let order = tokio::select! {
            Some(()) = terminate.recv() => Order::Drain,
            Some(()) = interrupt.recv() => Order::Drain,
            Some(()) = quit.recv() => Order::HandOver,
            // Its terminal was closed, where it had one.
            Some(()) = hangup.recv() => if at_terminal { Order::Drain } else {
                tracing::info!("SIGHUP changes nothing: files are taken over when they change");
                continue;
            },
            else => return,
        };
        if orders.send(order).await.is_err() {
            return;
        }
    }
}

/// pingora finds out late that an address is taken (thirty seconds) and says it in the log only. Nobody is listened to for
/// that: a connection of that moment would be reset.
fn can_listen(address: SocketAddr) -> Result<(), Failure> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let free = socket.and_then(|socket| socket.set_reuseaddr(true).and_then(|()| socket.bind(address)));
    free.map_err(|source| Failure::Listen { address, source })
}

/// Whoever can write to this folder can take the listening sockets, so it is ours alone.
pub(super) fn own_folder(path: &Path) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |source| Failure::RunDirectory { path: path.to_owned(), source };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(failed)?;
    let path = path.canonicalize().map_err(failed)?;
    if is_ours_alone(&path).map_err(failed)? {
        Ok(path)
    } else {
        Err(failed(io::Error::other("others can write to it")))
    }
}

/// Whether `folder` was there before us with an owner or a mode that lets others in: the default one has a name that
/// anybody on this machine can foretell. A file in it shows who we are, which the standard library does not say.
fn is_ours_alone(folder: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let probe = folder.join(format!("owner-{}", std::process::id()));
    drop(std::fs::remove_file(&probe)); // of a process that died here under the same number
    let own = std::fs::File::create_new(&probe)?.metadata()?.uid();
    std::fs::remove_file(&probe)?;
    let folder = folder.metadata()?;
    Ok(folder.uid() == own && folder.mode() & 0o022 == 0)
}

/// Orders that may wait; signals beyond these say nothing new.
const ORDERS_MAX: usize = 4;
/// One for each that may announce the end.
const FINISHES_MAX: usize = 4;
/// As long as `/readyz` waits for them after a start. A predecessor accepts for as long after it handed its sockets over
/// (pingora's `CLOSE_TIMEOUT`); who comes later waits a moment.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(5);
/// How soon it is seen that the upstreams are known.
const LOOK_AFTER: Duration = Duration::from_millis(20);
/// Probes and scrapers.
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// pingora's own measure: a packet on most links.
const WRITE_BUFFER_BYTES: usize = 1460;
