//! Do the policies fit what is there?
//!
//! `tollgate check` types policies before they are in force; this does it again with the tools that upstreams offer while the
//! gateway runs, and says what does not fit. A policy that names nothing decides nothing, so it is not taken out for that:
//! its upstream may come to offer what it names.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{Gateway, Rules};
use crate::{
    catalog::{Catalogue, Definition},
    clock,
    config::{Problem, Report, UpstreamId},
    policy::check::Estate as Known,
    telemetry::metrics,
};

impl Gateway {
    /// Looks whenever policies or catalogue are others than before; it does not return.
    pub async fn keep_fit(&self) {
        // Kept, so that nothing else comes to lie where they lie.
        let mut judged: Option<(Arc<Rules>, Arc<Catalogue>)> = None;
        let mut told: Vec<String> = Vec::new();
        let mut pause = LOOK_AFTER;
        loop {
            sleep(pause).await;
            let estate = self.estate();
            let (rules, catalogue) = (estate.rules.load_full(), estate.catalogue.load_full());
            let is_same = |before: &(Arc<Rules>, Arc<Catalogue>)| {
                Arc::ptr_eq(&before.0, &rules) && Arc::ptr_eq(&before.1, &catalogue)
            };
            if judged.as_ref().is_some_and(is_same) {
                continue;
            }
            judged = Some((Arc::clone(&rules), Arc::clone(&catalogue)));
            let judging = tokio::task::spawn_blocking(move || {
                let began = clock::instant();
                let listings = catalogue.listings();
                let tools: Vec<Arc<Definition>> = listings
                    .values()
                    .flat_map(|listing| listing.tools.iter().chain(&listing.prompts))
                    .cloned()
                    .collect();
                let unread: Vec<UpstreamId> =
                    listings.iter().filter(|(_, listing)| listing.offer.is_none()).map(|(id, _)| id.clone()).collect();
                let known = Known { upstreams: &estate.config.upstreams, tools: &tools, unread: &unread };
                let problems: Vec<Problem> =
                    rules.policies.check(&known).into_iter().filter(Problem::is_error).collect();
                (problems, began.elapsed())
            });
            // It fails only where the runtime ends.
            let Ok((problems, took)) = judging.await else { return };
            pause = LOOK_AFTER.max(took.saturating_mul(REST));
            metrics().policy_problems.set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
            let mut report = Report::default();
            problems.into_iter().for_each(|problem| report.push(problem));
            let messages: Vec<String> = report.messages().take(TOLD_MAX).collect();
            for message in messages.iter().filter(|message| !told.contains(*message)) {
                tracing::warn!(why = message, "a policy does not fit what is there; `tollgate check` shows the place");
            }
            told = messages;
        }
    }
}

/// How soon after a change it is judged.
const LOOK_AFTER: Duration = Duration::from_secs(2);
/// Of large sets the next judgement comes so many times later than the last took.
const REST: u32 = 20;
/// Problems that are told of; all are counted.
const TOLD_MAX: usize = 32;
