//! Is the gateway well?
//!
//! The pages of the admin listener: `/healthz` (alive), `/readyz` (send traffic here, or why not), `/metrics`. It finds
//! nothing out by itself: each part that can be unwell has a check, asked when somebody looks.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use tokio::sync::watch;

use crate::edge::{Page, Pages};

/// Whether the gateway should get traffic: a list of named checks.
#[derive(Default)]
pub struct Readiness(Vec<Check>);

/// One condition of readiness.
struct Check {
    name: &'static str,
    trouble: Box<dyn Fn() -> Option<Cow<'static, str>> + Send + Sync>,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|check| check.name)).finish()
    }
}

impl Readiness {
    /// Ready unless the gateway drains; `draining` is the edge's own.
    #[must_use]
    pub fn new(draining: watch::Receiver<bool>) -> Self {
        Self::default().with("draining", move || draining.borrow().then_some(Cow::Borrowed("shutting down")))
    }

    /// Ready only while `trouble` finds none. The check runs for each probe, so it only looks at what is known.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        trouble: impl Fn() -> Option<Cow<'static, str>> + Send + Sync + 'static,
    ) -> Self {
        self.0.push(Check { name, trouble: Box::new(trouble) });
        self
    }

    /// What stands against traffic now, by the name of the check; nothing where ready.
    #[must_use]
    pub fn troubles(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        self.0.iter().filter_map(|check| Some((check.name, (check.trouble)()?))).collect()
    }
}

/// The admin listener's pages; `metrics` writes Prometheus text.
pub fn pages(readiness: Readiness, metrics: impl Fn() -> String + Send + Sync + 'static) -> Pages {
    Pages::new(move |path| match path {
        "/healthz" => Some(Page { status: 200, content_type: TEXT, body: Bytes::from_static(b"ok\n") }),
        "/readyz" => Some(ready(&readiness)),
        "/metrics" => Some(Page { status: 200, content_type: METRICS, body: Bytes::from(metrics()) }),
        _ => None,
    })
}

fn ready(readiness: &Readiness) -> Page {
    let troubles = readiness.troubles();
    let reasons: serde_json::Map<_, _> =
        troubles.iter().map(|(name, why)| ((*name).to_owned(), serde_json::Value::from(why.as_ref()))).collect();
    let body = serde_json::json!({ "ready": troubles.is_empty(), "reasons": reasons });
    let status = if troubles.is_empty() { 200 } else { 503 };
    Page { status, content_type: "application/json", body: Bytes::from(body.to_string()) }
}

const TEXT: &str = "text/plain; charset=utf-8";
/// The Prometheus text exposition format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[test]
    fn readiness_names_every_reason_and_health_does_not_care() {
        let (drain, draining) = watch::channel(false);
        let broken = Arc::new(AtomicBool::new(false));
        let journal = Arc::clone(&broken);
        let readiness = Readiness::new(draining)
            .with("journal", move || journal.load(Ordering::Relaxed).then_some("the disk is full".into()));
        let pages = pages(readiness, || "up 1\n".to_owned());
        let check = |path: &str, status: u16, body: &str| {
            let page = pages.page(path).unwrap();
            assert_eq!((page.status, std::str::from_utf8(&page.body).unwrap()), (status, body));
        };
        check("/readyz", 200, r#"{"ready":true,"reasons":{}}"#);
        broken.store(true, Ordering::Relaxed);
        check("/readyz", 503, r#"{"ready":false,"reasons":{"journal":"the disk is full"}}"#);
        drain.send_replace(true);
        check("/readyz", 503, r#"{"ready":false,"reasons":{"draining":"shutting down","journal":"the disk is full"}}"#);
        check("/healthz", 200, "ok\n");
        check("/metrics", 200, "up 1\n");
        assert!(pages.page("/").is_none());
    }
}
