//! How much?
use std::{path::Path, sync::Arc};
use crate::{catalog::ToolDefinition, clock::Timestamp, identity::Identity, policy::{Permit, Problem}, refusal::Refusal};
/// Stub.
#[derive(Debug, Default)]
pub struct Ceilings {}
/// Stub.
#[derive(Debug)]
pub struct Admission { permit: Permit }
impl Ceilings {
    /// Stub.
    pub fn load(_d: &Path) -> Result<Self, Vec<Problem>> { Ok(Self {}) }
    /// Stub.
    pub fn admit(&self, permit: Permit, _c: &Identity, _t: &ToolDefinition, _n: Timestamp) -> Result<Admission, Refusal> { Ok(Admission { permit }) }
}
impl Admission {
    /// Stub.
    pub fn policies(&self) -> &[Arc<str>] { self.permit.policies() }
    /// Stub.
    pub fn policy_set(&self) -> &Arc<str> { self.permit.policy_set() }
    /// Stub.
    pub fn ceilings(&self) -> &[Arc<str>] { &[] }
}
