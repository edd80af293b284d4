//! What is everything called?
//!
//! The names of spans, metrics and attributes, in one place: the MCP conventions of OpenTelemetry
//! (`semantic-conventions-genai`, `docs/gen-ai/mcp.md`, 2026-05, status Development) and the gateway's own namespace.
//! It does not record anything.

/// Which conventions these are: what the manifest of `semantic-conventions-genai` calls itself.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev";

/// `mcp.method.name`.
pub const METHOD: &str = "mcp.method.name";
/// `mcp.protocol.version`.
pub const PROTOCOL_VERSION: &str = "mcp.protocol.version";
/// `mcp.session.id`: legacy sessions only; never for 2026-07-28 and later. What names the session in the journal, for
/// its id itself is the client's.
pub const SESSION_ID: &str = "mcp.session.id";
/// `mcp.resource.uri`: on spans, never on metrics.
pub const RESOURCE_URI: &str = "mcp.resource.uri";
/// `gen_ai.tool.name`.
pub const TOOL: &str = "gen_ai.tool.name";
/// `gen_ai.prompt.name`.
pub const PROMPT: &str = "gen_ai.prompt.name";
/// `gen_ai.operation.name`.
pub const OPERATION: &str = "gen_ai.operation.name";
/// The value of [`OPERATION`] for `tools/call`, and for nothing else.
pub const EXECUTE_TOOL: &str = "execute_tool";
/// `error.type`: a JSON-RPC code, [`TOOL_ERROR`], or a refusal's code.
pub const ERROR_TYPE: &str = "error.type";
/// The value of [`ERROR_TYPE`] for a result with `isError`.
pub const TOOL_ERROR: &str = "tool_error";
/// `rpc.response.status_code`: the JSON-RPC code, as text.
pub const RPC_STATUS: &str = "rpc.response.status_code";
/// `jsonrpc.request.id`.
pub const REQUEST_ID: &str = "jsonrpc.request.id";
/// `network.transport`: `tcp`, or `pipe` to a program.
pub const NETWORK_TRANSPORT: &str = "network.transport";
/// `network.protocol.name`.
pub const NETWORK_PROTOCOL: &str = "network.protocol.name";
/// `client.address`.
pub const CLIENT_ADDRESS: &str = "client.address";
/// `client.port`.
pub const CLIENT_PORT: &str = "client.port";
/// `server.address`: on spans up, the upstream.
pub const SERVER_ADDRESS: &str = "server.address";
/// `server.port`.
pub const SERVER_PORT: &str = "server.port";

/// The upstream's id.
pub const UPSTREAM: &str = "tollgate.upstream.id";
/// The endpoint's path.
pub const ENDPOINT: &str = "tollgate.endpoint";
/// The id that joins the span to its audit records.
pub const AUDIT_ID: &str = "tollgate.audit.id";
/// The stable code of a refusal.
pub const REFUSAL: &str = "tollgate.refusal.code";
/// The strategy that got the upstream's credential.
pub const GRANT_STRATEGY: &str = "tollgate.grant.strategy";
/// The agent's `client_id`.
pub const AGENT: &str = "tollgate.agent.id";
/// How an attempt ended: `ok` or `failed`, `hit` or `miss`, `allow` or `deny`.
pub const OUTCOME: &str = "tollgate.outcome";
/// What was looked for among answers: `view` who sees what, `page` a part of a list, `read` a resource, `tool` a result.
pub const CACHE: &str = "tollgate.cache";
/// The id of a policy.
pub const POLICY: &str = "tollgate.policy.id";
/// Whether a policy on trial would have changed the decision.
pub const CHANGES: &str = "tollgate.policy.changes";
/// Why something was dropped, in one word.
pub const REASON: &str = "tollgate.reason";
/// What is wrong with a credential, in one word.
pub const FAULT: &str = "tollgate.identity.fault";
/// What was changed: `config` or `policy`.
pub const SUBJECT: &str = "tollgate.change.subject";
/// A habit of clients that was forgiven.
pub const HABIT: &str = "tollgate.habit";
/// A token endpoint's URL, or the issuer whose metadata name it.
pub const TOKEN_ENDPOINT: &str = "tollgate.token_endpoint";
/// The issuer's identifier.
pub const ISSUER: &str = "tollgate.issuer";

/// Time to answer a client, in seconds.
pub const SERVER_DURATION: &str = "mcp.server.operation.duration";
/// Time that an upstream took, in seconds.
pub const CLIENT_DURATION: &str = "mcp.client.operation.duration";
/// Life of a legacy session with a client, in seconds.
pub const SERVER_SESSION_DURATION: &str = "mcp.server.session.duration";
/// Life of a session with a legacy upstream, in seconds.
pub const CLIENT_SESSION_DURATION: &str = "mcp.client.session.duration";

/// What stands in a metric for a name that is not in the catalogue: names from outside must not make series.
pub const OTHER: &str = "_OTHER";

/// The methods of every revision served, which is every value that [`METHOD`] may have besides [`OTHER`].
const METHODS: &[&str] = &[
    "completion/complete",
    "elicitation/create",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/elicitation/complete",
    "notifications/initialized",
    "notifications/message",
    "notifications/progress",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/roots/list_changed",
    "notifications/subscriptions/acknowledged",
    "notifications/tasks/status",
    "notifications/tools/list_changed",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "roots/list",
    "sampling/createMessage",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tools/call",
    "tools/list",
];

/// `method` where it is MCP's, [`OTHER`] where somebody made it up.
#[must_use]
pub fn method(method: &str) -> &'static str {
    METHODS.binary_search(&method).ok().and_then(|at| METHODS.get(at)).copied().unwrap_or(OTHER)
}

/// The label of an upstream's JSON-RPC error: the codes that JSON-RPC 2.0 §5.1 and MCP define, [`OTHER`] for what
/// somebody made up.
#[must_use]
pub const fn rpc_code(code: i64) -> &'static str {
    match code {
        -32700 => "-32700",
        -32603 => "-32603",
        -32602 => "-32602",
        -32601 => "-32601",
        -32600 => "-32600",
        -32042 => "-32042",
        -32022 => "-32022",
        -32021 => "-32021",
        -32020 => "-32020",
        -32002 => "-32002",
        -32000 => "-32000",
        _ => OTHER,
    }
}

/// A span's name: `{method}`, or `{method} {target}` where the target is a tool or a prompt of the catalogue.
#[must_use]
pub fn span(method: &str, target: Option<&str>) -> String {
    match target {
        Some(target) => format!("{} {target}", self::method(method)),
        None => self::method(method).to_owned(),
    }
}

/// Whether a JSON-RPC error makes a *server* span an error: what the client did wrong does not.
#[must_use]
pub const fn is_server_error(rpc_code: i64) -> bool {
    !matches!(rpc_code, -32700 | -32600 | -32601 | -32602 | -32002)
}

#[cfg(test)]
mod tests {
    use super::{METHODS, OTHER, method, rpc_code, span};

    #[test]
    fn methods_are_sorted_and_bounded() {
        assert!(METHODS.is_sorted());
        assert_eq!(method("tools/call"), "tools/call");
        assert_eq!(method("tools/CALL"), "_OTHER");
        assert_eq!(span("tools/call", Some("crm__find")), "tools/call crm__find");
        assert_eq!(span("x", None), "_OTHER");
    }

    #[test]
    fn a_code_that_somebody_made_up_makes_no_series() {
        assert_eq!(rpc_code(-32602), "-32602");
        for made_up in [0, 1, 40301, -32099, i64::MIN, i64::MAX] {
            assert_eq!(rpc_code(made_up), OTHER);
        }
    }
}
