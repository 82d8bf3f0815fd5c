//! What can go wrong with deployments.

use std::io;
use std::path::{Path, PathBuf};

use super::{PluginUsers, TargetUser};
use crate::model::{PipelineName, PluginName, Target};
use crate::plugin::{self, Digest, SignatureError};
use crate::{manifest, pipeline, storage};

/// Something could not be uploaded, applied or deployed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No plugin of this name was uploaded.
    #[error(
        "no plugin `{name}` was uploaded; upload its component with `millstream plugin upload {name} FILE.wasm`, or build and deploy its project with `cargo xtask deploy-plugin`"
    )]
    UnknownPlugin {
        /// The name asked for.
        name: PluginName,
    },
    /// The plugin has no version with this digest.
    #[error(
        "plugin `{name}` has no version {digest}; `millstream plugin describe {name}` lists those that it has"
    )]
    UnknownVersion {
        /// The plugin.
        name: PluginName,
        /// The digest asked for, as it was written.
        digest: String,
    },
    /// There is no earlier version to go back to.
    #[error(
        "plugin `{name}` has no earlier version to go back to: none was deployed before the current one, or it is not kept any more"
    )]
    NoEarlierVersion {
        /// The plugin.
        name: PluginName,
    },
    /// The checkpoint of the deploy is gone.
    #[error(
        "there is no checkpoint of deploy {id} of plugin `{name}`: only those of the last deploys are kept, and those for a limited time; roll back without state"
    )]
    NoCheckpoint {
        /// The plugin.
        name: PluginName,
        /// The deploy that would be undone.
        id: u64,
    },
    /// Pipelines use the plugin.
    #[error(
        "plugin `{name}` is used by {}; delete these pipelines, or apply a manifest that uses another plugin, first",
        names(.pipelines)
    )]
    PluginInUse {
        /// The plugin.
        name: PluginName,
        /// The pipelines that use it.
        pipelines: Vec<PipelineName>,
    },
    /// Pipelines of other manifests use the plugin, and would get another version of it.
    #[error(
        "manifest `{manifest}` has another version of plugin `{name}` than the current one, which {} would get, too; give the plugin another name in this manifest, or deploy the version to all of them first: `millstream plugin upload {name} FILE.wasm --deploy`",
        users(.others)
    )]
    PluginOfOthers {
        /// The plugin.
        name: PluginName,
        /// The manifest for which the version was to be deployed.
        manifest: String,
        /// Who else uses it.
        others: Vec<PluginUsers>,
    },
    /// Pipelines use the topic or queue.
    #[error(
        "{} `{}` is used by {}; delete these pipelines first ({}), or apply manifests in which they do not use it",
        .target.kind(),
        .target.name(),
        list(.users),
        deletions(.users)
    )]
    TargetInUse {
        /// The topic or queue.
        target: Target,
        /// The pipelines that use it, and where.
        users: Vec<TargetUser>,
    },
    /// Whether the topic or queue is used is not known.
    #[error(
        "{} `{}` may be in use: the manifest `{manifest}` was applied, and cannot be read any more; apply it corrected, or delete it, first: {source}",
        .target.kind(),
        .target.name()
    )]
    UnknownUse {
        /// The topic or queue.
        target: Target,
        /// The name of the manifest.
        manifest: String,
        /// Why it cannot be read.
        source: Box<Error>,
    },
    /// Another deploy of the plugin has not ended.
    #[error(
        "deploy {id} of plugin `{name}` is still under way; wait until it has ended, or stop it first: `millstream plugin stop-deploy {id}`"
    )]
    UnderWay {
        /// The plugin.
        name: PluginName,
        /// The deploy's number.
        id: u64,
    },
    /// A canary or a shadow of the plugin has not begun yet.
    #[error(
        "deploy {id} of plugin `{name}`, a canary or a shadow, waits for a server that runs its pipelines; start one with `millstream serve` and wait until it has ended, or withdraw it: `millstream plugin stop-deploy {id}`"
    )]
    Waiting {
        /// The plugin.
        name: PluginName,
        /// The deploy's number.
        id: u64,
    },
    /// A pipeline runs another version for trial, which standing still would end.
    #[error(
        "pipeline `{pipeline}` takes part in deploy {id} of plugin `{name}`, a canary or a shadow, which this would end; wait until it is over, or end it: `millstream plugin stop-deploy {id}`"
    )]
    TriedOut {
        /// The pipeline.
        pipeline: PipelineName,
        /// Its plugin.
        name: PluginName,
        /// The deploy's number.
        id: u64,
    },
    /// The new version could not take over; the old one stays.
    #[error("deploy {id} of plugin `{name}` failed, and the version before it stays: {source}")]
    DeployFailed {
        /// The deploy's number.
        id: u64,
        /// The plugin.
        name: PluginName,
        /// Why.
        source: Box<pipeline::Error>,
    },
    /// A rollback has put version and state back, and pipelines do not run with them.
    #[error(
        "rollback {id} of plugin `{name}` has put back its version and state, and {} could not be started with them: {source}",
        names(.pipelines)
    )]
    NotStartedAgain {
        /// The deploy's number.
        id: u64,
        /// The plugin.
        name: PluginName,
        /// The pipelines that do not run.
        pipelines: Vec<PipelineName>,
        /// Why the first one could not.
        source: Box<Error>,
    },
    /// A rollback with state has failed midway.
    #[error(
        "rollback {id} of plugin `{name}` has failed midway ({reason}), so that the state of {} is half put back; run it again: `millstream plugin rollback {name} --with-state`",
        names(.pipelines)
    )]
    RollbackUnfinished {
        /// The deploy's number.
        id: u64,
        /// The plugin.
        name: PluginName,
        /// The pipelines whose state is half put back.
        pipelines: Vec<PipelineName>,
        /// Why it has failed.
        reason: String,
    },
    /// A rollback puts state back, or was killed while it did and goes on with the next start of the server.
    #[error(
        "rollback {id} of plugin `{name}` is still putting state back, and a backup would have half of that; wait until it has ended, or, where no server runs, start one, which goes on with it"
    )]
    RollbackUnderWay {
        /// The deploy's number.
        id: u64,
        /// The plugin.
        name: PluginName,
    },
    /// A version was deleted while a backup was taken.
    #[error(
        "version {digest} of plugin `{name}` was deleted while the backup was taken, so that its component is not in it; take the backup again"
    )]
    DeletedMeanwhile {
        /// The plugin.
        name: PluginName,
        /// The version.
        digest: Digest,
    },
    /// No pipeline has one of the canary's partitions.
    #[error(
        "no pipeline that uses plugin `{name}` has {}: {}; leave out what is not there, or deploy to all",
        partitions(.missing),
        existing(*.count)
    )]
    NoCanaryPartition {
        /// The plugin.
        name: PluginName,
        /// The partitions asked for that no pipeline has.
        missing: Vec<u32>,
        /// How many partitions there are: as many as the pipeline with the most of them has.
        count: u32,
    },
    /// What is to be tried out is what runs.
    #[error(
        "version {digest} of plugin `{name}` is the current one: there is nothing to hold it against; deploy another as a canary"
    )]
    IsCurrent {
        /// The plugin.
        name: PluginName,
        /// Its current version.
        digest: Digest,
    },
    /// No pipeline runs the plugin.
    #[error(
        "no pipeline uses plugin `{name}`, so there is nothing beside which it could run; apply a manifest first"
    )]
    NotUsed {
        /// The plugin.
        name: PluginName,
    },
    /// Only signed versions may run, and this one is not.
    #[error(
        "version {digest} of plugin `{name}` is not signed, and only signed plugins may run; sign its component with `millstream plugin sign FILE --key KEY`, and upload it again"
    )]
    UnsignedPlugin {
        /// The plugin.
        name: PluginName,
        /// The version.
        digest: Digest,
    },
    /// The signature of a version does not count.
    #[error("the signature of version {digest} of plugin `{name}` does not count: {reason}")]
    UntrustedSignature {
        /// The plugin.
        name: PluginName,
        /// The version.
        digest: Digest,
        /// Why.
        reason: SignatureError,
    },
    /// There is no deploy of this number.
    #[error("there is no deploy {id}, or it is not remembered any more")]
    UnknownDeploy {
        /// The number asked for.
        id: u64,
    },
    /// No manifest of this name has been applied.
    #[error("no manifest `{name}` has been applied{hint}")]
    UnknownManifest {
        /// The name asked for.
        name: String,
        /// `; there are …` or empty.
        hint: String,
    },
    /// A stored component is not what it was.
    #[error("{path} is damaged: its content does not match its name; upload the plugin again")]
    DamagedComponent {
        /// The file.
        path: PathBuf,
    },
    /// The component is no plugin.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The pipelines cannot be changed so.
    #[error(transparent)]
    Pipeline(#[from] pipeline::Error),
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A file of the data directory failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's message.
        source: io::Error,
    },
    /// A bug in Millstream: the change panicked.
    #[error("the change panicked: {0}; this is a bug of millstream, please report it")]
    Panicked(String),
}

impl Error {
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + 'a {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

fn names(pipelines: &[PipelineName]) -> String {
    let names: Vec<String> = pipelines.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [one] => format!("pipeline {one}"),
        _ => format!("the pipelines {}", names.join(", ")),
    }
}

fn users(users: &[PluginUsers]) -> String {
    let users = users
        .iter()
        .map(|user| format!("{} of manifest `{}`", names(&user.pipelines), user.manifest));
    users.collect::<Vec<_>>().join(" and ")
}

fn partitions(numbers: &[u32]) -> String {
    let written: Vec<String> = numbers.iter().map(u32::to_string).collect();
    match written.as_slice() {
        [one] => format!("a partition {one}"),
        _ => format!("the partitions {}", written.join(", ")),
    }
}

fn existing(count: u32) -> String {
    match count {
        1 => "there is one, partition 0".to_owned(),
        _ => format!("there are {count}, from 0 to {}", count.saturating_sub(1)),
    }
}

fn list(users: &[TargetUser]) -> String {
    let users: Vec<String> = users.iter().map(TargetUser::to_string).collect();
    users.join(" and ")
}

/// The commands that delete the pipelines.
fn deletions(users: &[TargetUser]) -> String {
    let users = users.iter();
    let commands: Vec<String> = users
        .map(|user| format!("`millstream pipeline delete {}`", user.pipeline))
        .collect();
    commands.join(", ")
}

/// A version that was asked for by a digest or the start of one.
pub(super) fn unknown_version(name: &PluginName, digest: &Digest) -> Error {
    Error::UnknownVersion {
        name: name.clone(),
        digest: digest.to_string(),
    }
}
