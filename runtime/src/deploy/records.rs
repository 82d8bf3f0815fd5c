//! What is stored of plugins, manifests and deploys, and how it is read and written.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::canary::CanaryReport;
use super::shadow::ShadowReport;
use super::state::{Missing, Unsent};
use crate::model::{PipelineName, PluginName};
use crate::plugin::{Digest, Signature};
use crate::storage::schema::{KeyKind, deploy, manifest, plugin};
use crate::storage::{Commit, Error, ReadOnlyStore, Scan, Store};

/// Deploys whose records are kept.
const KEPT_DEPLOYS: u64 = 1_000;

/// A version of a plugin that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PluginVersion {
    /// SHA-256 of its component.
    pub digest: Digest,
    /// Size of its component.
    pub size_bytes: u64,
    /// When it was uploaded first, in ms since the epoch.
    pub uploaded_at_ms: u64,
    /// The name of the token with which it was; `None` without one.
    #[serde(default)]
    pub uploaded_by: Option<String>,
    /// The signature of its component, which a key has made that was trusted when it was uploaded.
    #[serde(default)]
    pub signature: Option<String>,
}

impl PluginVersion {
    /// The id of the key that has signed it.
    pub fn signer(&self) -> Option<String> {
        let signature = self.signature.as_deref()?.parse::<Signature>().ok()?;
        Some(signature.key().to_string())
    }
}

/// What is stored of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct StoredPlugin {
    /// The version that pipelines start with.
    pub(super) current: Digest,
    /// Those that are kept, in the order in which they were uploaded.
    pub(super) versions: Vec<PluginVersion>,
}

impl StoredPlugin {
    pub(super) fn version(&self, digest: &Digest) -> Option<&PluginVersion> {
        self.versions
            .iter()
            .find(|version| version.digest == *digest)
    }
}

/// A manifest as it was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AppliedManifest {
    /// Its text.
    pub text: String,
    /// When it was applied, in ms since the epoch.
    pub applied_at_ms: u64,
    /// The name of the token with which it was; `None` without one.
    #[serde(default)]
    pub applied_by: Option<String>,
    /// Pipelines that are not to be started before they are resumed.
    #[serde(default)]
    pub paused: Vec<PipelineName>,
    /// Pipelines that have been deleted since; applying the manifest again brings them back.
    #[serde(default)]
    pub removed: Vec<PipelineName>,
}

/// What was deployed, and how it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Deploy {
    /// Its number; later ones are greater.
    pub id: u64,
    /// The plugin.
    pub plugin: PluginName,
    /// The version that was current before; `None` for the first one of a plugin.
    #[serde(default)]
    pub from: Option<Digest>,
    /// The version that was deployed.
    pub to: Digest,
    /// When it began, or was asked for if it waits, in ms since the epoch.
    pub started_at_ms: u64,
    /// When it ended, in ms since the epoch; `None` before.
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    /// The name of the token with which it was asked for; `None` without one.
    #[serde(default)]
    pub by: Option<String>,
    /// The id of the key that has signed the version; `None` without a signature.
    #[serde(default)]
    pub signer: Option<String>,
    /// How it was deployed.
    pub mode: Mode,
    /// How it went.
    pub outcome: Outcome,
    /// Why, in words, if it did not just succeed.
    #[serde(default)]
    pub reason: Option<String>,
    /// The pipelines that use the plugin.
    #[serde(default)]
    pub pipelines: Vec<PipelineName>,
    /// What was found out about the version.
    #[serde(default)]
    pub report: Option<Report>,
    /// Whether state is being put back: no pipeline may start before that is done.
    #[serde(default)]
    pub is_restoring: bool,
}

/// What was found out about a version while it was tried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Report {
    /// By a canary.
    Canary(CanaryReport),
    /// By a shadow.
    Shadow {
        /// For each pipeline.
        pipelines: Vec<ShadowReport>,
    },
    /// What a rollback with state could not take back.
    Unsent {
        /// Outputs to which something was written since.
        outputs: Vec<Unsent>,
        /// What is to be processed again, and is not there any more.
        #[serde(default)]
        missing: Vec<Missing>,
    },
}

/// How a version is deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    tag = "kind"
)]
pub enum Mode {
    /// All tasks, one after the other.
    All,
    /// Those of some partitions first. The version is promoted to all tasks, or taken back, when the time is
    /// over; or before, if it fails decisively.
    Canary {
        /// The partitions, of all pipelines that have them.
        partitions: Vec<u32>,
        /// How long the version is tried out, in ms.
        duration_ms: u64,
    },
    /// None: it runs beside the current version for a while, what it makes is thrown away, and how the two differ is
    /// reported.
    Shadow {
        /// How long it runs, in ms.
        duration_ms: u64,
    },
    /// An earlier version again, to all tasks.
    Rollback {
        /// The deploy to whose checkpoint state and positions go back; `None` if they stay as they are.
        #[serde(default)]
        restores: Option<u64>,
    },
}

impl Mode {
    /// As it is named to those who ask.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Canary { .. } => "canary",
            Self::Shadow { .. } => "shadow",
            Self::Rollback { .. } => "rollback",
        }
    }
}

/// How a deploy went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is a canary or a shadow, and begins when a server runs the pipelines.
    Waiting,
    /// It is under way.
    Running,
    /// The new version is current, and runs.
    Succeeded,
    /// The new version could not run; the old one does.
    Failed,
    /// The new version ran, and was not good enough; the old one runs again.
    RolledBack,
    /// The process ended before it did; the old version runs.
    Interrupted,
    /// It was a shadow; the old version runs.
    Observed,
    /// It was stopped before it began; the old version runs.
    Withdrawn,
}

impl Outcome {
    /// The outcome as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::Interrupted => "interrupted",
            Self::Observed => "observed",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Whether it is not known yet: the deploy waits, or is under way.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Running)
    }
}

/// All plugins, by name.
pub(super) fn plugins(store: &Store) -> Result<Vec<(PluginName, StoredPlugin)>, Error> {
    all(store, KeyKind::Plugin, plugin_name)
}

/// All manifests, by name.
pub(super) fn manifests(store: &Store) -> Result<Vec<(String, AppliedManifest)>, Error> {
    all(store, KeyKind::Manifest, |key| {
        manifest::parse_key(key).map(str::to_owned)
    })
}

/// All deploys that are remembered, oldest first.
pub(super) fn deploys(store: &Store) -> Result<Vec<Deploy>, Error> {
    let deploys = all(store, KeyKind::Deploy, deploy::parse_key)?;
    Ok(deploys.into_iter().map(|(_, deploy)| deploy).collect())
}

/// All deploys that a checkpoint of the store remembers, oldest first.
pub(super) fn deploys_in(checkpoint: &ReadOnlyStore) -> Result<Vec<Deploy>, Error> {
    let deploys = all_in(checkpoint, KeyKind::Deploy, deploy::parse_key)?;
    Ok(deploys.into_iter().map(|(_, deploy)| deploy).collect())
}

/// All plugins that a checkpoint of the store has, by name.
pub(super) fn plugins_in(
    checkpoint: &ReadOnlyStore,
) -> Result<Vec<(PluginName, StoredPlugin)>, Error> {
    all_in(checkpoint, KeyKind::Plugin, plugin_name)
}

fn all_in<K, V: DeserializeOwned>(
    checkpoint: &ReadOnlyStore,
    kind: KeyKind,
    parse_key: impl Fn(&[u8]) -> Option<K>,
) -> Result<Vec<(K, V)>, Error> {
    let mut found = Vec::new();
    checkpoint.scan_kind(kind, |key, value| {
        found.push(entry(key, value, &parse_key)?);
        Ok(Scan::Continue)
    })?;
    Ok(found)
}

fn plugin_name(key: &[u8]) -> Option<PluginName> {
    PluginName::try_from(plugin::parse_key(key)?).ok()
}

pub(super) fn plugin(store: &Store, name: &PluginName) -> Result<Option<StoredPlugin>, Error> {
    let value = store.get(KeyKind::Plugin, &plugin::key(name.as_str()))?;
    value.map(|value| parse("a plugin", &value)).transpose()
}

pub(super) fn manifest(store: &Store, name: &str) -> Result<Option<AppliedManifest>, Error> {
    let value = store.get(KeyKind::Manifest, &manifest::key(name))?;
    value.map(|value| parse("a manifest", &value)).transpose()
}

pub(super) fn deploy(store: &Store, id: u64) -> Result<Option<Deploy>, Error> {
    let value = store.get(KeyKind::Deploy, &deploy::key(id))?;
    value.map(|value| parse("a deploy", &value)).transpose()
}

/// The versions of a plugin that become current if what is under way succeeds, or is run again.
pub(super) fn versions_under_way(store: &Store, name: &PluginName) -> Result<Vec<Digest>, Error> {
    let deploys = deploys(store)?.into_iter();
    let under_way = deploys.filter(|deploy| {
        let is_open = deploy.outcome.is_open() || deploy.is_restoring;
        is_open && deploy.plugin == *name
    });
    Ok(under_way.map(|deploy| deploy.to).collect())
}

pub(super) fn put_plugin(
    commit: &mut Commit,
    name: &PluginName,
    stored: &StoredPlugin,
) -> Result<(), Error> {
    put(commit, KeyKind::Plugin, plugin::key(name.as_str()), stored)
}

pub(super) fn put_manifest(
    commit: &mut Commit,
    name: &str,
    applied: &AppliedManifest,
) -> Result<(), Error> {
    put(commit, KeyKind::Manifest, manifest::key(name), applied)
}

pub(super) fn delete_plugin(commit: &mut Commit, name: &PluginName) {
    commit.delete(KeyKind::Plugin, plugin::key(name.as_str()));
}

pub(super) fn delete_manifest(commit: &mut Commit, name: &str) {
    commit.delete(KeyKind::Manifest, manifest::key(name));
}

/// Drops the deploys that are too old once there is one with this number; none that waits for a server, nor one that is
/// not done with its state, without which pipelines would start on half of it, nor the one to which that goes back,
/// without which it could not be run again.
pub(super) fn drop_old_deploys(store: &Store, commit: &mut Commit, id: u64) -> Result<(), Error> {
    let Some(last) = id.checked_sub(KEPT_DEPLOYS) else {
        return Ok(());
    };
    let deploys = deploys(store)?;
    let unfinished = || deploys.iter().filter(|it| it.is_restoring);
    let is_needed = |old: &Deploy| {
        let is_goal =
            |it: &Deploy| matches!(it.mode, Mode::Rollback { restores: Some(id) } if id == old.id);
        old.is_restoring || old.outcome == Outcome::Waiting || unfinished().any(is_goal)
    };
    for old in deploys.iter().filter(|it| it.id <= last) {
        if !is_needed(old) {
            commit.delete(KeyKind::Deploy, deploy::key(old.id));
        }
    }
    Ok(())
}

/// Stores a deploy.
pub(super) fn put_deploy(commit: &mut Commit, stored: &Deploy) -> Result<(), Error> {
    put(commit, KeyKind::Deploy, deploy::key(stored.id), stored)
}

fn put(
    commit: &mut Commit,
    kind: KeyKind,
    key: impl AsRef<[u8]>,
    value: &impl Serialize,
) -> Result<(), Error> {
    let value = serde_json::to_vec(value).map_err(|error| damaged("a record", &error))?;
    commit.put(kind, key, value.into());
    Ok(())
}

fn all<K, V: DeserializeOwned>(
    store: &Store,
    kind: KeyKind,
    parse_key: impl Fn(&[u8]) -> Option<K>,
) -> Result<Vec<(K, V)>, Error> {
    let mut found = Vec::new();
    store.scan_kind(kind, |key, value| {
        found.push(entry(key, value, &parse_key)?);
        Ok(Scan::Continue)
    })?;
    Ok(found)
}

fn entry<K, V: DeserializeOwned>(
    key: &[u8],
    value: &[u8],
    parse_key: impl Fn(&[u8]) -> Option<K>,
) -> Result<(K, V), Error> {
    let key = parse_key(key).ok_or_else(|| damaged("a record", &"malformed key"))?;
    Ok((key, parse("a record", value)?))
}

fn parse<V: DeserializeOwned>(what: &str, value: &[u8]) -> Result<V, Error> {
    serde_json::from_slice(value).map_err(|error| damaged(what, &error))
}

fn damaged(what: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Damaged {
        what: format!("{what} of the deployments"),
        reason: reason.to_string(),
    }
}
