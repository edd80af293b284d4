//! A server on HTTP+SSE whose one stream carries a flood for everybody (I9).

use super::{
    Ground,
    abuse::{Flood, withstands},
};
use crate::harness::recorder::{Era, Recorder, Reply};

#[test]
fn a_shared_stream_without_end_costs_nobody_else_anything() {
    let hostile = Flood::ALL.map(|flood| {
        Recorder::serving(move |seen| match seen.method.as_str() {
            "GET" => flood.after("event: endpoint\ndata: /message\n\n"),
            _ => Reply::status(202),
        })
    });
    let ground = Ground::before("flood-link", Recorder::good(Era::Modern), |mut setup, _, up| {
        setup = setup.open_upstream("up", &up.url());
        for (number, recorder) in hostile.iter().enumerate() {
            let lines = "transport = \"sse\"\ntimeout_ms = 3000\ngrant = { strategy = \"none\" }";
            setup = setup.upstream(&format!("hostile-{number}"), &format!("{}/sse", recorder.origin()), lines);
        }
        setup
    });
    withstands(&ground, "HTTP+SSE", &hostile.iter().collect::<Vec<_>>(), &[]);
}
