//! What is there after the next start?
//!
//! Sealed values under keys, each in its place and with its end: in one SQLite file in the folder of `[state]`, which
//! several processes may open at once (a gateway, its successor at an upgrade, a command), or in memory without a folder.
//! It does not know what it keeps. Nothing of it is asked on the way of a call: who needs it there keeps a copy, and
//! follows [`Store::changed`].

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, named_params};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Sealer, seal::Peer};
use crate::{
    clock::{self, Timestamp},
    config, tasks,
    telemetry::metrics::metrics,
};

/// Where values of one kind lie; two kinds may use the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// API keys.
    ApiKey,
    /// What is revoked.
    Revocation,
    /// What upstreams granted to users.
    UserGrant,
    /// An authorization that a user has begun and not ended.
    Pending,
    /// Clients that registered.
    Client,
    /// What users agreed to.
    Consent,
    /// What refresh tokens and codes lead to.
    Token,
    /// Assertions that were redeemed.
    Assertion,
    /// Assertions by which clients proved who they are.
    ClientAssertion,
    /// Keys that the gateway signs with.
    SigningKey,
    /// The key that the gateway proves with that a token is its own.
    ProofKey,
    /// What a user's login at the gateway left of their identity provider's tokens.
    Login,
}

impl Place {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Revocation => "revocation",
            Self::UserGrant => "user_grant",
            Self::Pending => "pending",
            Self::Client => "client",
            Self::Consent => "consent",
            Self::Token => "token",
            Self::Assertion => "assertion",
            Self::ClientAssertion => "client_assertion",
            Self::SigningKey => "signing_key",
            Self::ProofKey => "proof_key",
            Self::Login => "login",
        }
    }
}

/// What is to be kept.
pub struct Value {
    /// What only the store's holder can read.
    pub bytes: Vec<u8>,
    /// When it is forgotten; never, where not said.
    pub until: Option<Timestamp>,
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Value").field("until", &self.until).finish_non_exhaustive()
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// The file, or what is in it.
    #[error("the state cannot be used: {0}")]
    Unusable(String),
    /// A place holds as many values as it may.
    #[error("there is no room for another `{0}`")]
    Full(&'static str),
    /// A value is larger than it may be; its bytes.
    #[error("a value of {0} bytes is too large to be kept")]
    TooLarge(usize),
    /// A value was sealed with a key that is not at hand.
    #[error("what is kept was sealed with another key; give that one as `state.sealing_key_before`")]
    Sealed,
    /// Another process on the folder opens nothing that this one would seal, or the other way round.
    #[error(
        "a gateway that runs on this folder seals with another key: give that one as `state.sealing_key_before`, or end it first"
    )]
    Strangers,
}

impl From<rusqlite::Error> for StoreFault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// What was kept, wiped when it is dropped.
pub type Plain = Zeroizing<Vec<u8>>;

/// What is kept. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct Store(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    connection: Mutex<Connection>,
    sealer: Sealer,
    changes: watch::Sender<u64>,
    /// What the others know this process by.
    process: Uuid,
    /// Whether what is kept is sealed with the present key.
    settled: AtomicBool,
    left: AtomicBool,
    /// Whether somebody on the folder has no key in common with this process.
    estranged: AtomicBool,
}

impl Store {
    /// Opens what is kept, and makes it where it is not there yet.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn open(state: &config::State) -> Result<Self, String> {
        // The key first: it makes the folder.
        let sealer = Sealer::new(state)?;
        let connection = match &state.directory {
            Some(folder) => in_folder(folder),
            None => Connection::open_in_memory(),
        };
        let connection = connection.and_then(prepared);
        let connection = connection.map_err(|error| match &state.directory {
            Some(folder) => format!("`{}`: {error}", folder.join(FILE).display()),
            None => format!("no state in memory: {error}"),
        })?;
        let process = Uuid::new_v4();
        let others = others(&connection, process, clock::now()).map_err(|fault| fault.to_string())?;
        let waits = sealer.has_to_wait(&others).ok_or_else(|| StoreFault::Strangers.to_string())?;
        sealer.wait(waits);
        Ok(Self(Arc::new(Kept {
            connection: Mutex::new(connection),
            sealer,
            changes: watch::Sender::new(0),
            process,
            settled: AtomicBool::new(false),
            left: AtomicBool::new(false),
            estranged: AtomicBool::new(false),
        })))
    }

    /// What seals here, for what others carry.
    #[must_use]
    pub fn sealer(&self) -> Sealer {
        self.0.sealer.clone()
    }

    /// Says to the other processes on the folder that this one is there, and which keys it has: none of them seals then
    /// what this one cannot open. Once all of them have the present key what is kept is sealed anew with it. To be said
    /// before anything is served; [`Store::follow`] says it again and again.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`], [`StoreFault::Strangers`].
    pub async fn join(&self) -> Result<(), StoreFault> {
        if self.0.left.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.joined().await? {
            None | Some((0, 0)) => {}
            Some((resealed, 0)) => tracing::info!(resealed, "what is kept is sealed with the present key now"),
            Some((resealed, lost)) => {
                tracing::warn!(resealed, lost, "some of what is kept was sealed with a key that is not at hand")
            }
        }
        Ok(())
    }

    /// How many values were sealed anew, and how many no key at hand opens; nothing where neither was tried.
    async fn joined(&self) -> Result<Option<(usize, usize)>, StoreFault> {
        let mut resealed = Resealed::default();
        loop {
            let Some(so_far) = self.step(resealed).await? else { return Ok(None) };
            if so_far.reached.is_none() {
                return Ok(Some((so_far.anew, so_far.lost)));
            }
            resealed = so_far;
            // Whoever waits to write gets their turn, and what they wrote is looked at.
            self.tell();
            tokio::time::sleep(RESEAL_PAUSE).await;
        }
    }

    /// Says that this process is there, and seals some more values anew where that is due. Each step is whole: what is left
    /// when a process ends in the middle is sealed anew by the next.
    async fn step(&self, so_far: Resealed) -> Result<Option<Resealed>, StoreFault> {
        let (kept, now) = (Arc::clone(&self.0), clock::now());
        let step = self.ask(move |connection| {
            let whole = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let waits = kept.sealer.has_to_wait(&others(&whole, kept.process, now)?).ok_or(StoreFault::Strangers)?;
            // In one step: whoever comes after this has to open what is sealed from now on, and finds nothing else.
            kept.sealer.wait(waits);
            let Peer { opens, seals } = kept.sealer.peer();
            whole.prepare_cached(GONE)?.execute(named_params! { ":now": milliseconds(now) })?;
            let (id, until) = (kept.process.as_bytes().as_slice(), milliseconds(now.plus(THERE_FOR)));
            whole.prepare_cached(THERE)?.execute(
                named_params! { ":id": id, ":opens": opens.concat(), ":seals": seals.as_slice(), ":until": until },
            )?;
            let settled = kept.settled.load(Ordering::Acquire);
            let resealed = if waits || settled { None } else { Some(reseal(&whole, &kept.sealer, so_far)?) };
            whole.commit()?;
            let is_whole = resealed.as_ref().is_none_or(|resealed| resealed.reached.is_none());
            kept.settled.store(!waits && is_whole, Ordering::Release);
            if kept.estranged.swap(false, Ordering::AcqRel) {
                tracing::info!("everybody on the folder opens again what this process seals");
            }
            Ok(resealed)
        });
        step.await
    }

    /// Whether nothing can be kept, because somebody else on the folder could not open it. A process that stood still (a
    /// machine that slept) is forgotten, and those who come then do not ask for its key.
    #[must_use]
    pub fn is_estranged(&self) -> bool {
        self.0.estranged.load(Ordering::Acquire)
    }

    /// This process is there no more, for all that the others need to know. Waits for the disk: for the end of a process.
    pub fn leave(&self) {
        self.0.left.store(true, Ordering::Release);
        let left =
            self.0.connection.lock().execute(LEAVE, named_params! { ":id": self.0.process.as_bytes().as_slice() });
        if let Err(error) = left {
            tracing::warn!(%error, "the others on the folder take this process to be there for a while");
        }
    }

    /// Whether the others on the folder have another key in common with this one than a moment ago.
    async fn has_news_of_others(&self) -> bool {
        let kept = Arc::clone(&self.0);
        let others = self.ask(move |connection| others(connection, kept.process, clock::now()));
        others.await.is_ok_and(|others| self.0.sealer.has_to_wait(&others) != Some(self.0.sealer.waits()))
    }

    /// Keeps `value` under `key`, in the stead of what was there.
    ///
    /// # Errors
    /// Every [`StoreFault`] but [`StoreFault::Sealed`].
    pub async fn put(&self, place: Place, key: &[u8], value: Value, now: Timestamp) -> Result<(), StoreFault> {
        let (entry, kept) = (Entry::new(place, key, value)?, Arc::clone(&self.0));
        self.ask(move |connection| entry.write(connection, &kept, PUT, now)).await?;
        self.tell();
        Ok(())
    }

    /// Keeps `value` under `key` where nothing is there; says whether that was so. Of two that claim one key at once,
    /// one is told yes.
    ///
    /// # Errors
    /// Every [`StoreFault`] but [`StoreFault::Sealed`].
    pub async fn claim(&self, place: Place, key: &[u8], value: Value, now: Timestamp) -> Result<bool, StoreFault> {
        let (entry, kept) = (Entry::new(place, key, value)?, Arc::clone(&self.0));
        let claimed = self.ask(move |connection| entry.write(connection, &kept, CLAIM, now)).await?;
        if claimed {
            self.tell();
        }
        Ok(claimed)
    }

    /// What is kept under `key`.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`], [`StoreFault::Sealed`].
    pub async fn get(&self, place: Place, key: &[u8], now: Timestamp) -> Result<Option<Plain>, StoreFault> {
        let asked = key.to_vec();
        let sealed = self.ask(move |connection| found(connection, (place.as_str(), &asked), now));
        sealed.await?.map(|sealed| self.opened(place, key, &sealed)).transpose()
    }

    /// Takes what is kept under `key`, so that nobody gets it again: of two that ask at once, one gets it.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`], [`StoreFault::Sealed`].
    pub async fn take(&self, place: Place, key: &[u8], now: Timestamp) -> Result<Option<Plain>, StoreFault> {
        let (kept, key) = (Arc::clone(&self.0), key.to_vec());
        let taken = self.ask(move |connection| {
            let place = place.as_str();
            let whole = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let Some(sealed) = found(&whole, (place, &key), now)? else { return Ok(None) };
            // What no key at hand opens stays: it may be given yet.
            let Some(value) = kept.sealer.open(&purpose(place, &key), &sealed) else { return Ok(Some(None)) };
            whole.prepare_cached(REMOVE)?.execute(named_params! { ":place": place, ":key": key })?;
            whole.commit()?;
            Ok(Some(Some(value)))
        });
        let Some(value) = taken.await? else { return Ok(None) };
        let value = value.ok_or(StoreFault::Sealed)?;
        self.tell();
        Ok(Some(value))
    }

    /// Forgets what is kept under `key`; says whether there was something.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`].
    pub async fn remove(&self, place: Place, key: &[u8]) -> Result<bool, StoreFault> {
        let key = key.to_vec();
        let removed = self.ask(move |connection| {
            let mut statement = connection.prepare_cached(REMOVE)?;
            Ok(statement.execute(named_params! { ":place": place.as_str(), ":key": key })? > 0)
        });
        let removed = removed.await?;
        if removed {
            self.tell();
        }
        Ok(removed)
    }

    /// Keeps the second value under `key` in the stead of the first, or nothing, where the first is still there; says whether
    /// that was so. Of two that change the same value at once, one is told yes.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`], [`StoreFault::TooLarge`], [`StoreFault::Strangers`].
    pub async fn swap(
        &self,
        place: Place,
        key: &[u8],
        (before, after): (&[u8], Option<Value>),
        now: Timestamp,
    ) -> Result<bool, StoreFault> {
        let entry = after.map(|value| Entry::new(place, key, value)).transpose()?;
        let (kept, key, before) = (Arc::clone(&self.0), key.to_vec(), Zeroizing::new(before.to_vec()));
        let swapped = self.ask(move |connection| {
            let place = place.as_str();
            let whole = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let found = found(&whole, (place, &key), now)?;
            // What is sealed differs each time; what is within does not.
            let found = found.and_then(|sealed| kept.sealer.open(&purpose(place, &key), &sealed));
            if found.as_ref() != Some(&before) {
                return Ok(false);
            }
            match entry {
                Some(entry) => entry.execute(&whole, &kept, PUT)?,
                None => whole.prepare_cached(REMOVE)?.execute(named_params! { ":place": place, ":key": key })?,
            };
            whole.commit()?;
            Ok(true)
        });
        let swapped = swapped.await?;
        if swapped {
            self.tell();
        }
        Ok(swapped)
    }

    /// All keys of a place with their values, in the order of the keys.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`], [`StoreFault::Sealed`].
    pub async fn all(&self, place: Place, now: Timestamp) -> Result<Vec<(Vec<u8>, Plain)>, StoreFault> {
        let open = |(key, sealed): (Vec<u8>, String)| {
            let value = self.opened(place, &key, &sealed)?;
            Ok((key, value))
        };
        self.rows(place, now).await?.into_iter().map(open).collect()
    }

    /// The same, but for values that no key at hand opens: these are told of, and the others need not wait for them.
    ///
    /// # Errors
    /// [`StoreFault::Unusable`].
    pub async fn readable(&self, place: Place, now: Timestamp) -> Result<Vec<(Vec<u8>, Plain)>, StoreFault> {
        let open = |(key, sealed): (Vec<u8>, String)| match self.opened(place, &key, &sealed) {
            Ok(value) => Some((key, value)),
            Err(fault) => {
                unreadable(place.as_str(), &fault);
                None
            }
        };
        Ok(self.rows(place, now).await?.into_iter().filter_map(open).collect())
    }

    async fn rows(&self, place: Place, now: Timestamp) -> Result<Vec<(Vec<u8>, String)>, StoreFault> {
        let found = self.ask(move |connection| {
            let mut statement = connection.prepare_cached(ALL)?;
            let pair = |row: &Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?));
            let found =
                statement.query_map(named_params! { ":place": place.as_str(), ":now": milliseconds(now) }, pair)?;
            Ok(found.collect::<Result<Vec<_>, _>>()?)
        });
        found.await
    }

    /// Changes with every write, of this process at once and of others as soon as [`Store::follow`] sees it.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Looks for what other processes write, and who they are, until the process ends.
    pub async fn follow(&self) {
        let mut before = None;
        for look in 0_u32.. {
            let version =
                self.ask(|connection| Ok(connection.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0))?));
            let mut news = look.is_multiple_of(LOOKS_A_BEAT);
            match version.await {
                Ok(version) if before.replace(version).is_some_and(|before| before != version) => {
                    self.tell();
                    news = self.has_news_of_others().await;
                }
                Ok(_) => {}
                Err(fault) => tracing::error!(why = %fault, "the state cannot be looked at"),
            }
            // Strangers were told of when they came.
            if news
                && let Err(fault) = self.join().await
                && fault != StoreFault::Strangers
            {
                tracing::error!(why = %fault, "the others on the folder cannot be told of this process");
            }
            tokio::time::sleep(LOOK_AFTER).await;
        }
    }

    /// What a disk or an operator may do to what is kept.
    #[cfg(test)]
    pub fn damage(&self, how: &str) {
        self.0.connection.lock().execute_batch(how).unwrap();
    }

    fn tell(&self) {
        self.0.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn opened(&self, place: Place, key: &[u8], sealed: &str) -> Result<Plain, StoreFault> {
        self.0.sealer.open(&purpose(place.as_str(), key), sealed).ok_or(StoreFault::Sealed)
    }

    /// A disk may be slow: `question` waits for it on a thread of its own.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Connection) -> Result<T, StoreFault> + Send + 'static,
    ) -> Result<T, StoreFault> {
        let kept = Arc::clone(&self.0);
        let answer = tasks::blocking(move || question(&mut kept.connection.lock())).await;
        let answer = answer.unwrap_or_else(|error| Err(StoreFault::Unusable(error.to_string())));
        if matches!(answer, Err(StoreFault::Strangers)) && !self.0.estranged.swap(true, Ordering::AcqRel) {
            tracing::error!(why = %StoreFault::Strangers, "nothing is kept that others on the folder could not open");
        }
        answer
    }
}

/// What is kept under a key, as it is sealed.
fn found(connection: &Connection, (place, key): (&str, &[u8]), now: Timestamp) -> Result<Option<String>, StoreFault> {
    let named = named_params! { ":place": place, ":key": key, ":now": milliseconds(now) };
    Ok(connection.prepare_cached(GET)?.query_row(named, |row| row.get(0)).optional()?)
}

/// One of several values, as JSON. One that is not understood is told of, and the others need not wait for it.
pub fn understood<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(what, &error)).ok()
}

fn unreadable(what: &'static str, why: &dyn fmt::Display) {
    metrics().state_unreadable.increment();
    tracing::error!(what, %why, "one of the values that are kept cannot be read");
}

/// One value on its way in.
struct Entry {
    place: Place,
    key: Vec<u8>,
    value: Plain,
    until: Option<i64>,
}

impl Entry {
    fn new(place: Place, key: &[u8], value: Value) -> Result<Self, StoreFault> {
        let (value, until) = (Zeroizing::new(value.bytes), value.until.map(milliseconds));
        if value.len() > VALUE_BYTES_MAX {
            return Err(StoreFault::TooLarge(value.len()));
        }
        Ok(Self { place, key: key.to_vec(), value, until })
    }

    /// Sealed only here, where the connection is held: what is sealed with one key is written before another seals. To be
    /// done in a step that nobody else writes in, so that nobody comes who could not open it.
    fn execute(&self, connection: &Connection, kept: &Kept, how: &str) -> Result<usize, StoreFault> {
        if !kept.sealer.suits(&others(connection, kept.process, clock::now())?) {
            return Err(StoreFault::Strangers);
        }
        let sealed = kept.sealer.seal(&purpose(self.place.as_str(), &self.key), self.value.to_vec());
        let value = sealed.map_err(|refusal| StoreFault::Unusable(refusal.inside().to_string()))?;
        Ok(connection.prepare_cached(how)?.execute(
            named_params! { ":place": self.place.as_str(), ":key": self.key, ":value": value, ":until": self.until },
        )?)
    }

    /// In one step with the sweep of what has ended, so that an ended value is nobody's.
    fn write(&self, connection: &mut Connection, kept: &Kept, how: &str, now: Timestamp) -> Result<bool, StoreFault> {
        let place = self.place.as_str();
        let whole = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        whole.prepare_cached(SWEEP)?.execute(named_params! { ":place": place, ":now": milliseconds(now) })?;
        let written = self.execute(&whole, kept, how)?;
        let entries: i64 =
            whole.prepare_cached(COUNT)?.query_row(named_params! { ":place": place }, |row| row.get(0))?;
        if usize::try_from(entries).is_ok_and(|entries| entries > ENTRIES_MAX) {
            return Err(StoreFault::Full(place));
        }
        whole.commit()?;
        Ok(written > 0)
    }
}

fn in_folder(folder: &Path) -> rusqlite::Result<Connection> {
    crate::secret::warn_of_writers(folder);
    let connection = Connection::open(folder.join(FILE))?;
    connection.busy_timeout(BUSY_MAX)?;
    // Readers and a writer do not wait for each other; a write is on the disk when it is answered.
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

/// How far what is kept has been sealed anew.
#[derive(Debug)]
struct Resealed {
    anew: usize,
    /// What no key at hand opens.
    lost: usize,
    /// The place and the key up to which all is done; nothing once everything is.
    reached: Option<(String, Vec<u8>)>,
}

impl Default for Resealed {
    fn default() -> Self {
        Self { anew: 0, lost: 0, reached: Some((String::new(), Vec::new())) }
    }
}

/// Seals anew what the key before the present one had sealed, so that a rotation has an end: afterwards the old key is
/// needed no more. Goes on from `so_far`, for as many values as others can wait for.
fn reseal(connection: &Connection, sealer: &Sealer, mut so_far: Resealed) -> Result<Resealed, StoreFault> {
    let Some((place, key)) = so_far.reached.take() else { return Ok(so_far) };
    let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, String>(2)?));
    let mut next = connection.prepare_cached(NEXT)?;
    let next = next.query_map(named_params! { ":place": place, ":key": key, ":rows": RESEAL_ROWS }, row)?;
    for (nth, row) in (1..).zip(next.collect::<Result<Vec<_>, _>>()?) {
        let (place, key, sealed) = row;
        if !sealer.is_present(&sealed) {
            let purpose = purpose(&place, &key);
            match sealer.open(&purpose, &sealed) {
                None => so_far.lost = so_far.lost.saturating_add(1),
                Some(plain) => {
                    let anew = sealer.seal(&purpose, plain.to_vec());
                    let anew = anew.map_err(|refusal| StoreFault::Unusable(refusal.inside().to_string()))?;
                    let named = named_params! { ":place": place, ":key": key, ":value": anew };
                    connection.prepare_cached(RESEAL)?.execute(named)?;
                    so_far.anew = so_far.anew.saturating_add(1);
                }
            }
        }
        so_far.reached = (nth == RESEAL_ROWS).then_some((place, key));
    }
    Ok(so_far)
}

/// The keys of the other processes on the folder.
fn others(connection: &Connection, own: Uuid, now: Timestamp) -> Result<Vec<Peer>, StoreFault> {
    let mut statement = connection.prepare_cached(OTHERS)?;
    let peer = |row: &Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?));
    let found =
        statement.query_map(named_params! { ":id": own.as_bytes().as_slice(), ":now": milliseconds(now) }, peer)?;
    let mut others = Vec::new();
    for row in found {
        let (opens, seals) = row?;
        let (opens, _rest) = opens.as_chunks();
        let seals = seals.try_into().map_err(|_bytes| StoreFault::Unusable("a key without a name".to_owned()))?;
        others.push(Peer { opens: opens.to_vec(), seals });
    }
    Ok(others)
}

fn prepared(connection: Connection) -> rusqlite::Result<Connection> {
    connection.pragma_update(None, "secure_delete", true)?;
    connection.execute_batch(TABLE)?;
    Ok(connection)
}

/// A value opens under its own key and in its own place only.
fn purpose(place: &str, key: &[u8]) -> String {
    let mut purpose = format!("store {place} ");
    for byte in key {
        purpose.push(char::from(*byte));
    }
    purpose
}

fn milliseconds(time: Timestamp) -> i64 {
    i64::try_from(time.unix_ms()).unwrap_or(i64::MAX)
}

/// The file in the folder of `[state]`.
const FILE: &str = "state.db";

/// Values of one place; whoever fills it (registrations, consents) is turned away, and nobody else.
const ENTRIES_MAX: usize = 100_000;

/// Bytes of one value.
const VALUE_BYTES_MAX: usize = 256 * 1024;

/// How soon a write of another process is seen.
const LOOK_AFTER: Duration = Duration::from_millis(250);

/// How long a write waits for that of another process.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// Values that are sealed anew in one step, a fraction of what a write waits for, and the time between two steps.
const RESEAL_ROWS: u32 = 256;
const RESEAL_PAUSE: Duration = Duration::from_millis(5);

/// How often a process says that it is there, in looks, and for how long that is believed: one that was killed keeps a
/// rotation waiting no longer.
const LOOKS_A_BEAT: u32 = 40;
const THERE_FOR: Duration = Duration::from_secs(60);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS kept (
    place TEXT NOT NULL, key BLOB NOT NULL, value TEXT NOT NULL, until INTEGER, PRIMARY KEY (place, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ends ON kept (place, until) WHERE until IS NOT NULL;
CREATE TABLE IF NOT EXISTS processes (
    id BLOB PRIMARY KEY, opens BLOB NOT NULL, seals BLOB NOT NULL, until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;";
const OTHERS: &str = "SELECT opens, seals FROM processes WHERE id <> :id AND until > :now";
const THERE: &str = "INSERT OR REPLACE INTO processes (id, opens, seals, until) VALUES (:id, :opens, :seals, :until)";
const GONE: &str = "DELETE FROM processes WHERE until <= :now";
const LEAVE: &str = "DELETE FROM processes WHERE id = :id";
const PUT: &str = "INSERT OR REPLACE INTO kept (place, key, value, until) VALUES (:place, :key, :value, :until)";
const CLAIM: &str = "INSERT OR IGNORE INTO kept (place, key, value, until) VALUES (:place, :key, :value, :until)";
const GET: &str = "SELECT value FROM kept WHERE place = :place AND key = :key AND (until IS NULL OR until > :now)";
const REMOVE: &str = "DELETE FROM kept WHERE place = :place AND key = :key";
const ALL: &str = "SELECT key, value FROM kept WHERE place = :place AND (until IS NULL OR until > :now) ORDER BY key";
const NEXT: &str =
    "SELECT place, key, value FROM kept WHERE (place, key) > (:place, :key) ORDER BY place, key LIMIT :rows";
const RESEAL: &str = "UPDATE kept SET value = :value WHERE place = :place AND key = :key";
const SWEEP: &str = "DELETE FROM kept WHERE place = :place AND until <= :now";
const COUNT: &str = "SELECT count(*) FROM kept WHERE place = :place";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::secret::Secret;

    const fn at(ms: u64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    const fn value(bytes: Vec<u8>, until: Option<Timestamp>) -> Value {
        Value { bytes, until }
    }

    fn folder(path: &Path) -> config::State {
        config::State { directory: Some(path.to_owned()), ..config::State::default() }
    }

    fn plain(bytes: &[u8]) -> Plain {
        Zeroizing::new(bytes.to_vec())
    }

    async fn read(store: &Store, place: Place, key: &[u8], ms: u64) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(store.get(place, key, at(ms)).await?.map(|value| value.to_vec()))
    }

    #[test]
    fn a_value_does_not_print() {
        let shown = format!("{:?}", value(b"hunter2".to_vec(), None));
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }

    #[tokio::test]
    async fn what_is_kept_is_there_until_its_end() {
        let store = Store::open(&config::State::default()).unwrap();
        store.put(Place::Token, b"a", value(b"one".to_vec(), Some(at(100))), at(0)).await.unwrap();
        store.put(Place::Client, b"a", value(b"other".to_vec(), None), at(0)).await.unwrap();
        assert_eq!(read(&store, Place::Token, b"a", 99).await, Ok(Some(b"one".to_vec())));
        assert_eq!(store.get(Place::Token, b"a", at(100)).await.unwrap(), None);
        store.put(Place::Token, b"a", value(b"two".to_vec(), None), at(0)).await.unwrap();
        assert_eq!(store.all(Place::Token, at(1_000)).await.unwrap(), [(b"a".to_vec(), plain(b"two"))]);
        assert!(store.remove(Place::Token, b"a").await.unwrap());
        assert!(!store.remove(Place::Token, b"a").await.unwrap());
        assert_eq!(read(&store, Place::Client, b"a", 1_000).await, Ok(Some(b"other".to_vec())));
    }

    #[tokio::test]
    async fn of_many_that_claim_or_take_one_key_one_gets_it() {
        let store = Store::open(&config::State::default()).unwrap();
        let claims = (0..20).map(|n| {
            let store = store.clone();
            tasks::background(async move {
                store.claim(Place::Token, b"k", value(vec![n], Some(at(10))), at(0)).await.unwrap()
            })
        });
        let mut claimed = 0;
        for claim in claims.collect::<Vec<_>>() {
            claimed += usize::from(claim.await.unwrap());
        }
        assert_eq!(claimed, 1);
        assert!(store.claim(Place::Token, b"k", value(vec![], None), at(10)).await.unwrap(), "the first has ended");
        let takes = (0..20).map(|_| {
            let store = store.clone();
            tasks::background(async move { store.take(Place::Token, b"k", at(11)).await.unwrap() })
        });
        let mut taken = 0;
        for take in takes.collect::<Vec<_>>() {
            taken += usize::from(take.await.unwrap().is_some());
        }
        assert_eq!(taken, 1);
    }

    #[tokio::test]
    async fn of_many_that_replace_one_value_one_does() {
        let store = Store::open(&config::State::default()).unwrap();
        let replace = |n| {
            let store = store.clone();
            tasks::background(async move {
                let anew = value(vec![n], Some(at(20)));
                store.swap(Place::Token, b"k", (b"before", Some(anew)), at(0)).await.unwrap()
            })
        };
        assert!(!replace(0).await.unwrap(), "nothing is there");
        store.put(Place::Token, b"k", value(b"before".to_vec(), Some(at(10))), at(0)).await.unwrap();
        let mut replaced = Vec::new();
        for (n, one) in (1..20).map(|n| (n, replace(n))).collect::<Vec<_>>() {
            replaced.extend(one.await.unwrap().then_some(n));
        }
        assert_eq!(read(&store, Place::Token, b"k", 11).await, Ok(Some(replaced.clone())), "with its new end");
        assert_eq!(replaced.len(), 1);
    }

    #[tokio::test]
    async fn a_value_is_changed_only_where_it_is_still_the_one_that_was_read() {
        let store = Store::open(&config::State::default()).unwrap();
        let swap = |before: &'static [u8], after: Option<&[u8]>| {
            let after = after.map(|bytes| value(bytes.to_vec(), None));
            store.swap(Place::Token, b"k", (before, after), at(0))
        };
        assert!(!swap(b"", Some(b"one")).await.unwrap(), "nothing is there");
        store.put(Place::Token, b"k", value(b"one".to_vec(), None), at(0)).await.unwrap();
        assert!(!swap(b"two", Some(b"three")).await.unwrap());
        assert!(!swap(b"two", None).await.unwrap());
        assert!(swap(b"one", Some(b"two")).await.unwrap());
        assert!(!swap(b"one", None).await.unwrap(), "it has changed since");
        assert_eq!(read(&store, Place::Token, b"k", 0).await, Ok(Some(b"two".to_vec())));
        assert!(swap(b"two", None).await.unwrap());
        assert_eq!(store.get(Place::Token, b"k", at(0)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_folder_outlives_the_process_and_gives_nothing_away() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("state");
        Store::open(&folder(&path))
            .unwrap()
            .put(Place::UserGrant, b"k", value(b"refresh-me".to_vec(), None), at(0))
            .await
            .unwrap();
        let store = Store::open(&folder(&path)).unwrap();
        assert_eq!(read(&store, Place::UserGrant, b"k", 1).await, Ok(Some(b"refresh-me".to_vec())));
        for file in std::fs::read_dir(&path).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(10).any(|window| window == b"refresh-me"));
        }
        assert_eq!(std::fs::metadata(path.join("sealing.key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let foreign = config::State { sealing_key: Some(Secret::new("77".repeat(32))), ..folder(&path) };
        let store = Store::open(&foreign).unwrap();
        assert_eq!(store.get(Place::UserGrant, b"k", at(1)).await, Err(StoreFault::Sealed));
    }

    /// The store in this folder, with these keys.
    fn keyed(path: &Path, present: &str, before: Option<&str>) -> Result<Store, String> {
        let secret = |text: &str| Secret::new(text.repeat(32));
        let (sealing_key, sealing_key_before) = (Some(secret(present)), before.map(secret));
        Store::open(&config::State { sealing_key, sealing_key_before, ..folder(path) })
    }

    #[tokio::test]
    async fn after_a_rotation_the_old_key_is_needed_no_more() {
        let temporary = tempfile::tempdir().unwrap();
        let with = |present: &str, before: Option<&str>| keyed(temporary.path(), present, before).unwrap();
        let until = Some(at(500));
        let old = with("11", None);
        old.put(Place::UserGrant, b"k", value(b"v".to_vec(), until), at(0)).await.unwrap();
        old.put(Place::Client, b"k", value(b"w".to_vec(), None), at(0)).await.unwrap();
        let lost = with("99", None);
        lost.put(Place::Token, b"k", value(b"x".to_vec(), None), at(0)).await.unwrap();
        let between = with("22", Some("11"));
        assert_eq!(read(&between, Place::UserGrant, b"k", 1).await, Ok(Some(b"v".to_vec())), "while both are there");
        assert_eq!(between.all(Place::Token, at(1)).await, Err(StoreFault::Sealed));
        between.put(Place::Token, b"l", value(b"y".to_vec(), None), at(0)).await.unwrap();
        let readable = between.readable(Place::Token, at(1)).await.unwrap();
        assert_eq!(readable, [(b"l".to_vec(), plain(b"y"))], "one that is lost does not keep the others");
        assert_eq!(between.take(Place::Token, b"k", at(1)).await, Err(StoreFault::Sealed));
        assert_eq!(read(&lost, Place::Token, b"k", 1).await, Ok(Some(b"x".to_vec())), "what nobody could read stays");
        assert_eq!(between.joined().await.unwrap(), Some((2, 1)));
        assert_eq!(between.joined().await.unwrap(), None, "once is enough");
        between.leave();
        let new = with("22", None);
        assert_eq!(read(&new, Place::UserGrant, b"k", 1).await, Ok(Some(b"v".to_vec())));
        assert_eq!(new.get(Place::UserGrant, b"k", at(500)).await.unwrap(), None, "its end stays its end");
        assert_eq!(read(&new, Place::Client, b"k", 1).await, Ok(Some(b"w".to_vec())));
        assert_eq!(old.get(Place::Client, b"k", at(1)).await, Err(StoreFault::Sealed));
    }

    #[tokio::test]
    async fn while_somebody_has_the_old_key_alone_it_seals() {
        let temporary = tempfile::tempdir().unwrap();
        let with = |present: &str, before: Option<&str>| keyed(temporary.path(), present, before);
        let put = async |store: &Store, key: &[u8]| {
            store.put(Place::Client, key, value(key.to_vec(), None), at(0)).await.unwrap();
        };
        let old = with("11", None).unwrap();
        old.join().await.unwrap();
        put(&old, b"a").await;
        let between = with("22", Some("11")).unwrap();
        between.join().await.unwrap();
        put(&between, b"b").await;
        assert_eq!(old.all(Place::Client, at(0)).await.unwrap().len(), 2, "nothing is sealed that it cannot open");
        assert!(with("22", None).unwrap_err().contains("seals with another key"), "whose writes nobody could read");

        assert!(!between.has_news_of_others().await);
        old.leave();
        assert!(between.has_news_of_others().await);
        between.join().await.unwrap();
        assert!(with("11", None).is_err(), "it could not read what is there");
        let new = with("22", None).unwrap();
        assert_eq!(new.all(Place::Client, at(0)).await.unwrap().len(), 2, "all of it was sealed anew");
        old.join().await.unwrap();
        assert!(!between.has_news_of_others().await, "who has left does not come back");
        between.leave();
        assert!(with("11", None).is_ok(), "the folder is its own again");
    }

    #[tokio::test]
    async fn others_write_while_everything_is_sealed_anew_and_who_comes_next_goes_on_with_it() {
        let temporary = tempfile::tempdir().unwrap();
        let with = |present: &str, before: Option<&str>| keyed(temporary.path(), present, before).unwrap();
        let old = with("11", None);
        let rows = 2 * RESEAL_ROWS + 1;
        for n in 0..rows {
            let place = if n % 2 == 0 { Place::Client } else { Place::Token };
            old.put(place, &n.to_be_bytes(), value(b"v".to_vec(), None), at(0)).await.unwrap();
        }
        let (one, other) = (with("22", Some("11")), with("22", Some("11")));
        let step = one.step(Resealed::default()).await.unwrap().unwrap();
        assert_eq!((step.anew, step.lost, step.reached.is_some()), (RESEAL_ROWS as usize, 0, true));
        other.put(Place::Client, b"k", value(b"v".to_vec(), None), at(0)).await.unwrap();
        // It ends here, and has done what it has done.
        one.leave();
        assert_eq!(other.joined().await.unwrap(), Some(((RESEAL_ROWS + 1) as usize, 0)));
        assert_eq!(other.joined().await.unwrap(), None, "once is enough");
        other.leave();
        let new = with("22", None);
        let all =
            new.all(Place::Client, at(0)).await.unwrap().len() + new.all(Place::Token, at(0)).await.unwrap().len();
        assert_eq!(all, rows as usize + 1);
    }

    #[tokio::test]
    async fn who_was_forgotten_keeps_nothing_that_those_who_came_since_cannot_open() {
        let temporary = tempfile::tempdir().unwrap();
        let with = |present: &str, before: Option<&str>| keyed(temporary.path(), present, before).unwrap();
        let put =
            async |store: &Store, key: u8| store.put(Place::Client, &[key], value(b"v".to_vec(), None), at(0)).await;
        let paused = with("11", None);
        paused.join().await.unwrap();
        assert_eq!(put(&paused, 1).await, Ok(()));
        // Nobody heard of it for a while.
        paused.damage("UPDATE processes SET until = 0");
        assert_eq!(put(&paused, 2).await, Ok(()), "nobody has come");
        let new = with("22", Some("11"));
        new.join().await.unwrap();

        assert_eq!(put(&paused, 1).await, Err(StoreFault::Strangers));
        assert!(paused.is_estranged() && !new.is_estranged());
        let claimed = paused.claim(Place::Client, b"c", value(b"v".to_vec(), None), at(0)).await;
        assert_eq!(claimed, Err(StoreFault::Strangers));
        assert_eq!(paused.join().await, Err(StoreFault::Strangers));
        assert_eq!(put(&new, 3).await, Ok(()));
        assert_eq!(new.all(Place::Client, at(0)).await.unwrap().len(), 3, "all of it can be opened");

        new.leave();
        paused.join().await.unwrap();
        assert!(!paused.is_estranged());
        assert_eq!(put(&paused, 1).await, Ok(()));
    }

    #[tokio::test]
    async fn a_write_of_another_process_is_seen() {
        let temporary = tempfile::tempdir().unwrap();
        let (one, other) =
            (Store::open(&folder(temporary.path())).unwrap(), Store::open(&folder(temporary.path())).unwrap());
        let changed = one.changed();
        let follows = one.clone();
        let following = tasks::background(async move { follows.follow().await });
        // Its first look may come after the write, and then there is nothing to tell: write until it is seen.
        let seen = async {
            while !changed.has_changed().unwrap() {
                other.put(Place::Revocation, b"k", value(vec![1], None), at(0)).await.unwrap();
                tokio::time::sleep(LOOK_AFTER).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap();
        assert_eq!(read(&one, Place::Revocation, b"k", 0).await, Ok(Some(vec![1])));
        following.abort();
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_the_rest_stays() {
        let store = Store::open(&config::State::default()).unwrap();
        let large = store.put(Place::Client, b"k", value(vec![0; VALUE_BYTES_MAX + 1], None), at(0)).await;
        assert_eq!(large, Err(StoreFault::TooLarge(VALUE_BYTES_MAX + 1)));
        let many = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ENTRIES_MAX})
             INSERT INTO kept SELECT 'client', CAST(i AS BLOB), '', 1000 FROM n"
        );
        store.damage(&many);
        assert_eq!(store.put(Place::Client, b"k", value(vec![1], None), at(0)).await, Err(StoreFault::Full("client")));
        assert_eq!(store.get(Place::Client, b"k", at(0)).await, Ok(None));
        store.put(Place::Consent, b"k", value(vec![1], None), at(0)).await.unwrap();
        store.put(Place::Client, b"k", value(vec![1], None), at(1000)).await.unwrap();
    }
}
