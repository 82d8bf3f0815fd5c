//! Plugins and deploys as the API shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::report::ReportView;
use crate::deploy::{
    Deploy, PluginVersion, PluginView as Plugin, Uploaded, VersionView as Version,
};
use crate::model::{PipelineName, PluginName};
use crate::plugin::ImportedInterface;

/// A plugin with its versions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PluginView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: PluginName,
    /// SHA-256 of the version that pipelines start with.
    pub current: String,
    /// Its versions, in the order in which they were uploaded.
    pub versions: Vec<VersionView>,
    /// The pipelines that use it.
    #[schema(value_type = Vec<String>)]
    pub used_by: Vec<PipelineName>,
}

/// A version of a plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct VersionView {
    /// SHA-256 of its component.
    pub digest: String,
    /// Size of its component.
    pub size_bytes: u64,
    /// When it was uploaded first, in ms since the epoch.
    pub uploaded_ms: u64,
    /// The name of the token with which it was; null without one.
    pub uploaded_by: Option<String>,
    /// The id of the key that has signed it; null without a signature that was checked.
    pub signer: Option<String>,
}

/// A plugin, and what its current version imports and exports.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PluginDescription {
    /// The plugin.
    #[serde(flatten)]
    pub plugin: PluginView,
    /// What it exports.
    pub exports: Vec<String>,
    /// What it imports.
    pub imports: Vec<ImportView>,
    /// Whether it keeps state, or timers.
    pub keeps_state: bool,
}

/// An interface that a plugin imports.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportView {
    /// Its name with package and version.
    pub interface: String,
    /// The functions of it that the plugin imports.
    pub functions: Vec<String>,
}

/// A version that was uploaded.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadedView {
    /// The plugin.
    #[schema(value_type = String)]
    pub name: PluginName,
    /// SHA-256 of the component.
    pub digest: String,
    /// Whether it was not there before.
    pub new: bool,
    /// Whether it is the version that pipelines start with; the first one is at once, later ones when they are
    /// deployed.
    pub current: bool,
    /// The id of the key that has signed it; null without a signature, or if the server trusts no keys.
    pub signer: Option<String>,
    /// What is different about it to the current version.
    pub differences: Vec<DifferenceView>,
    /// The pipelines that use the plugin and could not run this version.
    pub misfits: Vec<MisfitView>,
}

/// A difference between two versions of a plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DifferenceView {
    /// What the new version does, or no longer does.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether a pipeline cannot run the new version before something is done.
    pub breaks: bool,
}

/// A pipeline that could not run a version.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MisfitView {
    /// The pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// Why.
    pub reason: String,
}

/// What was deployed, and how it went.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeployView {
    /// Its number; later ones are greater.
    pub id: u64,
    /// The plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// SHA-256 of the version that was current before; null for the first one.
    pub from: Option<String>,
    /// SHA-256 of the version that was deployed.
    pub to: String,
    /// When it began, or was asked for if it waits, in ms since the epoch.
    pub started_ms: u64,
    /// When it ended, in ms since the epoch; null before.
    pub ended_ms: Option<u64>,
    /// The name of the token with which it was asked for; null without one.
    pub by: Option<String>,
    /// The id of the key that has signed the version; null without a signature that was checked.
    pub signer: Option<String>,
    /// `all`, `canary`, `shadow` or `rollback`.
    pub mode: String,
    /// What was found out about the version while it was tried out, or what a rollback could not take back.
    pub report: Option<ReportView>,
    /// `running`, `succeeded`, `failed`, `rolled-back`, `observed` or `interrupted`; of a canary or a shadow that was asked
    /// for while no server ran also `waiting`, until the pipelines run, or `withdrawn`.
    pub outcome: String,
    /// Why, if it did not just succeed.
    pub reason: Option<String>,
    /// The pipelines that use the plugin.
    #[schema(value_type = Vec<String>)]
    pub pipelines: Vec<PipelineName>,
}

impl PluginView {
    pub(super) fn of(plugin: Plugin) -> Self {
        Self {
            name: plugin.name,
            current: plugin.current.to_string(),
            versions: plugin.versions.iter().map(VersionView::of).collect(),
            used_by: plugin.used_by,
        }
    }
}

impl VersionView {
    fn of(version: &PluginVersion) -> Self {
        Self {
            digest: version.digest.to_string(),
            size_bytes: version.size_bytes,
            uploaded_ms: version.uploaded_at_ms,
            uploaded_by: version.uploaded_by.clone(),
            signer: version.signer(),
        }
    }
}

impl PluginDescription {
    pub(super) fn new(plugin: Plugin, version: Version) -> Self {
        let import = |import: &ImportedInterface| ImportView {
            interface: import.name.clone(),
            functions: import.functions.clone(),
        };
        Self {
            plugin: PluginView::of(plugin),
            imports: version.imports.iter().map(import).collect(),
            exports: version.exports,
            keeps_state: version.keeps_state,
        }
    }
}

impl UploadedView {
    pub(super) fn of(uploaded: Uploaded) -> Self {
        let differences = uploaded.differences.into_iter();
        let misfits = uploaded.misfits.into_iter();
        Self {
            name: uploaded.name,
            digest: uploaded.version.digest.to_string(),
            signer: uploaded.version.signer(),
            new: uploaded.is_new,
            current: uploaded.is_current,
            differences: differences
                .map(|it| DifferenceView {
                    breaks: it.effect == crate::plugin::Effect::Breaks,
                    what: it.what,
                    remedy: it.remedy,
                })
                .collect(),
            misfits: misfits
                .map(|(pipeline, refusal)| MisfitView {
                    pipeline,
                    reason: refusal.to_string(),
                })
                .collect(),
        }
    }
}

impl DeployView {
    pub(super) fn of(deploy: Deploy) -> Self {
        Self {
            id: deploy.id,
            plugin: deploy.plugin,
            from: deploy.from.map(|digest| digest.to_string()),
            to: deploy.to.to_string(),
            started_ms: deploy.started_at_ms,
            ended_ms: deploy.ended_at_ms,
            by: deploy.by,
            signer: deploy.signer,
            mode: deploy.mode.as_str().to_owned(),
            report: deploy.report.map(ReportView::from),
            outcome: deploy.outcome.as_str().to_owned(),
            reason: deploy.reason,
            pipelines: deploy.pipelines,
        }
    }
}
