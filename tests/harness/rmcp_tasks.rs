//! How does a published server have tasks?
//!
//! A server on the crate `rmcp`, inside the test, whose tools become tasks by the extension `io.modelcontextprotocol/tasks`:
//! those that the official conformance suite asks for.

use std::{collections::BTreeMap, time::Duration};

use http_body_util::{BodyExt, combinators::BoxBody};
use rmcp::{
    ErrorData, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities, ContentBlock,
        CreateTaskResult, GetTaskParams, GetTaskResult, InputRequest, InputRequiredResult, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, UpdateTaskParams,
    },
    service::{RequestContext, RoleServer},
    task_manager::{TaskExit, TaskManager, TaskOptions},
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};

use super::serve::Served;

/// Its tools, and which of them are tasks always.
const TOOLS: [(&str, bool); 7] = [
    ("greet", false),
    ("slow_compute", false),
    ("failing_job", true),
    ("protocol_error_job", true),
    ("confirm_delete", true),
    ("multi_input", true),
    ("test_tool_with_task", true),
];

#[derive(Clone, Default)]
struct Jobs(TaskManager);

impl ServerHandler for Jobs {
    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = json!({ "type": "object" });
        let tool = |(name, _)| serde_json::from_value(json!({ "name": name, "inputSchema": schema })).unwrap();
        Ok(ListToolsResult::with_all_items(TOOLS.map(tool).into_iter().collect::<Vec<Tool>>()))
    }

    async fn call_tool(
        &self,
        params: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(params.arguments.unwrap_or_default());
        let seconds = Duration::from_secs_f64(arguments["seconds"].as_f64().unwrap_or_default());
        let knows = context.client_capabilities().is_some_and(|declared| declared.supports_tasks());
        let name = params.name.into_owned();
        let Some((_, always)) = TOOLS.into_iter().find(|(known, _)| *known == name) else {
            return Err(ErrorData::invalid_params("unknown tool", None));
        };
        if always && !knows {
            let needed = ClientCapabilities::builder().enable_tasks().build();
            return Err(ErrorData::missing_required_client_capability(needed));
        }
        if name == "greet" {
            return Ok(said(&format!("Hello, {}!", arguments["name"].as_str().unwrap_or("?"))).into());
        }
        if name == "slow_compute" && (!knows || seconds.is_zero()) {
            tokio::time::sleep(seconds).await;
            return Ok(said("computed").into());
        }
        let answer = params.input_responses.as_ref().and_then(|responses| responses.get("user_name").cloned());
        if name == "test_tool_with_task" && answer.is_none() {
            return Ok(
                InputRequiredResult::from_input_requests(BTreeMap::from([("user_name".to_owned(), form())])).into()
            );
        }
        let options = TaskOptions::new().with_poll_interval_ms(100);
        let task = self.0.spawn(options, move |task| {
            Box::pin(async move {
                match name.as_str() {
                    "slow_compute" => tokio::select! {
                        () = task.cancelled() => Err(TaskExit::Cancelled),
                        () = tokio::time::sleep(seconds) => Ok(said("computed")),
                    },
                    "failing_job" => Ok(CallToolResult::error(vec![ContentBlock::text("it does not work")])),
                    "protocol_error_job" => Err(ErrorData::internal_error("it broke", None).into()),
                    "confirm_delete" => Ok(said(&task.request_input("confirm", form()).await?["action"].to_string())),
                    "multi_input" => {
                        let (one, two) =
                            tokio::join!(task.request_input("one", form()), task.request_input("two", form()));
                        Ok(said(&format!("{} {}", one?["action"], two?["action"])))
                    }
                    _ => Ok(said(&answer.unwrap_or_default()["content"].to_string())),
                }
            })
        });
        Ok(CreateTaskResult::new(task).into())
    }

    async fn get_task(
        &self,
        params: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        Ok(GetTaskResult::new(self.0.get_task(&params.task_id)?))
    }

    async fn update_task(
        &self,
        params: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.update_task(&params.task_id, params.input_responses)
    }

    async fn cancel_task(
        &self,
        params: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.cancel_task(&params.task_id)
    }

    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tasks().build())
    }
}

fn said(text: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn form() -> InputRequest {
    let schema =
        json!({ "type": "object", "properties": { "name": { "type": "string" }, "confirm": { "type": "boolean" } } });
    let params = json!({ "mode": "form", "message": "Who?", "requestedSchema": schema });
    serde_json::from_value(json!({ "method": "elicitation/create", "params": params })).unwrap()
}

/// Starts the server; its endpoint is `/mcp` (as is every other path).
pub(crate) fn start() -> Served {
    let jobs = Jobs::default();
    let sessions = LocalSessionManager::default().into();
    let service = StreamableHttpService::new(move || Ok(jobs.clone()), sessions, StreamableHttpServerConfig::default());
    Served::start(None, move |request| {
        let service = service.clone();
        async move { service.handle(request).await.map(|body| BoxBody::new(body.map_err(|never| match never {}))) }
    })
}
