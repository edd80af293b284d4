//! What can this request's client do for a server?
//!
//! The client's side of MCP as a handful of bits: read from what a client declares, reduced to what an upstream may learn
//! of, written as JSON where the gateway declares it in turn (spec §3.5). As a value it is the capability fingerprint by
//! which sessions at legacy upstreams are told apart. `roots.listChanged` and all extensions but tasks are not among the
//! bits: the gateway does not carry them.

use std::borrow::Cow;

use super::{json::Value, versions};
use crate::{config::Input, refusal::Era};

/// The extension by which a call may become a task.
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// A set of features that a client provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Nothing may be asked.
    pub const NONE: Self = Self(0);
    /// `elicitation.form`: a person fills in a form.
    pub const FORM: Self = Self(1);
    /// `elicitation.url`: a person is sent to a page.
    pub const URL: Self = Self(1 << 1);
    /// `sampling`: the client's model answers.
    pub const SAMPLING: Self = Self(1 << 2);
    /// `sampling.tools`: and may use tools.
    pub const SAMPLING_TOOLS: Self = Self(1 << 3);
    /// `sampling.context`: and sees what other servers said.
    pub const SAMPLING_CONTEXT: Self = Self(1 << 4);
    /// `roots`: folders that the client works in.
    pub const ROOTS: Self = Self(1 << 5);
    /// `io.modelcontextprotocol/tasks`: a call may become a task, which the client follows, or the gateway for it.
    pub const TASKS: Self = Self(1 << 6);

    /// What a ClientCapabilities object declares. `elicitation` without a mode means forms (MCP client/elicitation).
    #[must_use]
    pub fn declared(object: Value<'_>) -> Self {
        let mut all = Self::NONE;
        let has = |feature: Value<'_>, name| feature.get(name).is_some_and(Value::is_object);
        if let Some(elicitation) = object.get("elicitation").filter(|value| value.is_object()) {
            let (form, url) = (has(elicitation, "form"), has(elicitation, "url"));
            all = all.with(Self::FORM, form || !url).with(Self::URL, url);
        }
        if let Some(sampling) = object.get("sampling").filter(|value| value.is_object()) {
            all = all
                .with(Self::SAMPLING, true)
                .with(Self::SAMPLING_TOOLS, has(sampling, "tools"))
                .with(Self::SAMPLING_CONTEXT, has(sampling, "context"));
        }
        let tasks = object.get("extensions").is_some_and(|extensions| has(extensions, TASKS_EXTENSION));
        all.with(Self::ROOTS, has(object, "roots")).with(Self::TASKS, tasks)
    }

    /// These without what the administrator withholds from an upstream.
    #[must_use]
    pub const fn within(self, input: Input) -> Self {
        let elicitation = if input.elicitation { Self::FORM.0 | Self::URL.0 } else { 0 };
        let sampling =
            if input.sampling { Self::SAMPLING.0 | Self::SAMPLING_TOOLS.0 | Self::SAMPLING_CONTEXT.0 } else { 0 };
        let roots = if input.roots { Self::ROOTS.0 } else { 0 };
        Self(self.0 & (elicitation | sampling | roots))
    }

    /// These without what `version` does not have.
    #[must_use]
    pub fn in_version(self, version: &str) -> Self {
        let newest = versions::at_least(version, "2025-11-25");
        let forms = versions::at_least(version, "2025-06-18");
        let lacking = Self::NONE
            .with(Self::FORM, !forms)
            .with(Self::URL, !newest)
            .with(Self::SAMPLING_TOOLS, !newest)
            .with(Self::SAMPLING_CONTEXT, !newest)
            .with(Self::TASKS, versions::era(version) == Era::Legacy);
        Self(self.0 & !lacking.0)
    }

    /// Whether all of `needed` are among these.
    #[must_use]
    pub const fn has(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn with(self, more: Self, really: bool) -> Self {
        if really { self.and(more) } else { self }
    }

    /// As a ClientCapabilities object.
    #[must_use]
    pub fn json(self) -> Cow<'static, str> {
        if self == Self::NONE {
            return Cow::Borrowed("{}");
        }
        let mut features = Vec::with_capacity(3);
        if self.has(Self::FORM) || self.has(Self::URL) {
            features.push(self.feature("elicitation", &[("form", Self::FORM), ("url", Self::URL)]));
        }
        if self.has(Self::SAMPLING) {
            let parts = [("tools", Self::SAMPLING_TOOLS), ("context", Self::SAMPLING_CONTEXT)];
            features.push(self.feature("sampling", &parts));
        }
        if self.has(Self::ROOTS) {
            features.push(self.feature("roots", &[]));
        }
        if self.has(Self::TASKS) {
            features.push(self.feature("extensions", &[(TASKS_EXTENSION, Self::TASKS)]));
        }
        Cow::Owned(format!("{{{}}}", features.join(",")))
    }

    fn feature(self, name: &str, parts: &[(&str, Self)]) -> String {
        let parts: Vec<_> =
            parts.iter().filter(|(_, part)| self.has(*part)).map(|(part, _)| format!(r#""{part}":{{}}"#)).collect();
        format!(r#""{name}":{{{}}}"#, parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::Capabilities;
    use crate::{
        config::Input,
        rpc::json::{Bounds, Document},
    };

    fn declared(text: &str) -> Capabilities {
        let bounds = Bounds { depth_max: 8, values_max: 100, name_bytes_max: 100, number_chars_max: 100 };
        Capabilities::declared(Document::parse(Bytes::copy_from_slice(text.as_bytes()), &bounds).unwrap().root())
    }

    #[test]
    fn what_is_declared_is_written_again_without_what_the_gateway_does_not_carry() {
        let same = |text: &str, expect: &str| assert_eq!(declared(text).json(), expect, "{text}");
        same("{}", "{}");
        same(r#"{"elicitation":{}}"#, r#"{"elicitation":{"form":{}}}"#);
        same(r#"{"elicitation":{"url":{}}}"#, r#"{"elicitation":{"url":{}}}"#);
        same(r#"{"elicitation":true,"sampling":[]}"#, "{}");
        same(
            r#"{"roots":{"listChanged":true},"sampling":{"context":{},"tools":{}},"elicitation":{"url":{},"form":{}},"tasks":{}}"#,
            r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{},"context":{}},"roots":{}}"#,
        );
    }

    #[test]
    fn what_a_version_lacks_or_the_administrator_withholds_is_not_declared() {
        let all = declared(r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{},"context":{}},"roots":{}}"#);
        assert_eq!(all.in_version("2026-07-28"), all);
        assert_eq!(all.in_version("2025-11-25"), all);
        assert_eq!(all.in_version("2025-06-18").json(), r#"{"elicitation":{"form":{}},"sampling":{},"roots":{}}"#);
        assert_eq!(all.in_version("2025-03-26").json(), r#"{"sampling":{},"roots":{}}"#);
        let tasks = declared(r#"{"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{}}}"#);
        assert_eq!(tasks.json(), r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#);
        assert_eq!(tasks.in_version("2025-11-25"), Capabilities::NONE);
        let input = Input { elicitation: true, sampling: false, roots: false };
        assert_eq!(all.within(input).json(), r#"{"elicitation":{"form":{},"url":{}}}"#);
    }
}
