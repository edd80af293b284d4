//! May they?
//!
//! A caller, a tool and its arguments in, a [`Permit`] out, or a [`Denial`]. Policies are Cedar, from `policies/`;
//! what no policy permits is denied, and so is what a policy could not be evaluated for. It does not count calls, nor
//! does it know under which name the tool was asked for.
//!
//! Listing and calling go through the same decision: a tool is shown if and only if some call of it could be allowed as
//! far as can be said without its arguments, and a tool that is not shown is answered as one that does not exist.
//!
//! | in a policy | is |
//! |---|---|
//! | `principal` | `User::"issuer#sub"`, or `Agent::"issuer#client_id"` where there is no user; in `Group::"…"` and `Tenant::"…"` |
//! | `principal.…` | `issuer`, `agent`, `groups`, `scopes`; `subject` for users; `tenant` where there is one |
//! | `action` | `Action::"upstream/tool"` in `Action::"tools/call"`, `Action::"prompt:upstream/prompt"` in `Action::"prompts/get"`, `Action::"resources/read"`, `Action::"resources/subscribe"`, `Action::"completion/complete"`; each in one group for each tag too |
//! | `resource` | `Upstream::"id"` |
//! | `context.input` | the arguments that have a Cedar type; `uri` of a resource; `ref`, `name` and `argument` of a completion |
//! | `context.agent` | `client_id`; `actor` where the agent acts for another one |
//! | `context.authn` | `method`, `issuer`, `binding`; `acr` and `auth_time` where there is one |
//! | `context.tenant` | the tenant, where there is one |
//! | `context.time` | `now`, `unix_seconds`, `hour` (0–23), `weekday` (1 = Monday … 7), all in UTC |

pub mod check;
mod decide;
pub mod explain;
mod input;
pub mod load;
mod parse;
mod reads;
mod schema;
mod sight;
mod slice;
pub mod test;
mod vocabulary;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

pub use decide::{Denial, Draft, Finding, Permit, Policies, Shadow, Verdict};
pub use sight::Sight;
