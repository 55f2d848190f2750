//! What a container has used: not known here.

use serde::Serialize;

/// Never made: [`crate::idle::CgroupManager::stats`] is refused.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Stats {}
