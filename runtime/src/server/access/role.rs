//! What a token may do.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token may do. `admin` may do everything; of the others none includes another, but for what the verbs of each
/// have to look at.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// See what there is: topics, queues, groups, pipelines, plugins, dead letters, metrics
    Read,
    /// Append records, enqueue messages
    Produce,
    /// Fetch records, commit offsets, lease and settle messages
    Consume,
    /// Apply manifests, pause and delete pipelines, upload and deploy plugins, redrive dead letters
    Deploy,
    /// Everything
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 5] = [
        Role::Read,
        Role::Produce,
        Role::Consume,
        Role::Deploy,
        Role::Admin,
    ];

    /// Its name, as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Produce => "produce",
            Role::Consume => "consume",
            Role::Deploy => "deploy",
            Role::Admin => "admin",
        }
    }

    /// The role of this name.
    pub(in crate::server) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
