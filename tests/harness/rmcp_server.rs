//! How does the Rust SDK take part?
//!
//! A server on the crate `rmcp`, inside the test: every revision on one endpoint, sessions for the older ones.

use http_body_util::{BodyExt, combinators::BoxBody};
use rmcp::{
    handler::server::wrapper::Parameters,
    schemars, tool, tool_router,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde::Deserialize;

use super::serve::Served;

#[derive(Deserialize, schemars::JsonSchema)]
struct Sum {
    a: i64,
    b: i64,
}

#[derive(Clone)]
struct Tools;

#[tool_router(server_handler)]
impl Tools {
    #[tool(description = "Adds two numbers.")]
    fn add(&self, Parameters(Sum { a, b }): Parameters<Sum>) -> String {
        (a + b).to_string()
    }
}

/// Starts the server; its endpoint is `/mcp` (as is every other path).
pub(crate) fn start() -> Served {
    let sessions = LocalSessionManager::default().into();
    let service = StreamableHttpService::new(|| Ok(Tools), sessions, StreamableHttpServerConfig::default());
    Served::start(None, move |request| {
        let service = service.clone();
        async move { service.handle(request).await.map(|body| BoxBody::new(body.map_err(|never| match never {}))) }
    })
}
