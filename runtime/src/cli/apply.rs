//! `millstream apply`: makes a server run a manifest, or the next one that starts.

use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;

use super::GlobalArgs;
use super::client::Client;
use super::exit::Ending;
use super::open::Access;
use super::output::{Column, Output, Table};
use super::plugin::{self, NewComponent};
use super::progress::note;
use super::signatures::SignatureArgs;
use crate::deploy::Offline;
use crate::manifest;
use crate::model::PluginName;
use crate::server::{AppliedView, CheckRequest, Code, Problem, UploadedView};

/// The media type of a manifest.
const TOML: &str = "application/toml";

/// Arguments of `apply`.
#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// The manifest, usually millstream.toml
    manifest: PathBuf,
    /// Leave the plugins that were uploaded as they are, instead of uploading and deploying those that have changed
    #[arg(long)]
    keep_plugins: bool,
    #[command(flatten)]
    signing: plugin::Signing,
    #[command(flatten, next_help_heading = plugin::OFFLINE)]
    signatures: SignatureArgs,
}

/// Uploads and deploys the plugins that have changed, and applies the manifest.
pub(super) async fn run(
    args: &ApplyArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let manifest = manifest::load(&args.manifest)?;
    let text = std::fs::read(&args.manifest)
        .with_context(|| format!("cannot read {}", args.manifest.display()))?;
    // First: a file that cannot be read uploads nothing, and makes no data directory.
    let mut components = Vec::new();
    if !args.keep_plugins {
        for spec in &manifest.plugins {
            components.push((&spec.name, NewComponent::read(&spec.path, &args.signing)?));
        }
    }
    let signatures = &args.signatures;
    let client =
        Client::connect_to_deployments(global, Access::Create, signatures, Offline::Changing)
            .await?;
    // All of them before the first is uploaded: a manifest that is refused changes nothing.
    for (name, component) in &components {
        check(&client, &manifest.name, name, component).await?;
    }
    let mut postponed = Vec::new();
    for (name, component) in components {
        let uploaded = plugin::upload(&client, name, &component).await?;
        if uploaded.current {
            continue;
        }
        match deploy(&client, &manifest.name, &uploaded).await {
            Err(error) if needs_other_manifest(&error) => postponed.push(uploaded),
            deployed => deployed?,
        }
    }
    let text = Bytes::from(text);
    let mut applied = apply(&client, &text).await?;
    if !postponed.is_empty() {
        for uploaded in &postponed {
            let deployed = deploy(&client, &manifest.name, uploaded).await;
            deployed.context("the manifest is applied, with the version before this one")?;
        }
        applied = apply(&client, &text).await?;
    }
    output.result(&applied, |output| {
        let mut table = Table::new(&[Column::Text("pipeline"), Column::Text("change")]);
        for change in &applied.pipelines {
            table.row([change.pipeline.to_string(), change.change.clone()]);
        }
        output.table(&table)
    })?;
    output.flush()?;
    if client.is_offline() {
        note("no server runs on the data directory; `millstream serve` starts the pipelines");
    }
    let failed = applied.pipelines.iter();
    let mut failed = failed.filter_map(|change| Some((&change.pipeline, change.failure.as_ref()?)));
    let mut ending = Ending::Done;
    for (pipeline, failure) in &mut failed {
        note(&format!("pipeline `{pipeline}` does not run: {failure}"));
        ending = Ending::Failed;
    }
    Ok(ending)
}

async fn apply(client: &Client, manifest: &Bytes) -> anyhow::Result<AppliedView> {
    let applied = client.post_bytes("/v1/manifests", TOML, manifest.clone());
    Ok(serde_json::from_slice(&applied.await?.body)?)
}

/// Checks that the pipelines of other manifests keep the version of a plugin that they have.
async fn check(
    client: &Client,
    manifest: &str,
    name: &PluginName,
    component: &NewComponent,
) -> anyhow::Result<()> {
    let request = CheckRequest {
        manifest: manifest.to_owned(),
        digest: component.digest(),
    };
    let path = format!("/v1/plugins/{name}/check");
    client.fetch(&path, &request).await.map(drop)
}

async fn deploy(client: &Client, manifest: &str, uploaded: &UploadedView) -> anyhow::Result<()> {
    let UploadedView { name, digest, .. } = uploaded;
    plugin::deploy_for_manifest(client, manifest, name, digest).await?;
    note(&match client.is_offline() {
        true => format!("plugin `{name}` starts with version {digest}"),
        false => format!("plugin `{name}` runs version {digest} now"),
    });
    Ok(())
}

/// Whether a version may run with the manifest that is to come, though not with the one that runs: it needs something
/// granted, or a key of its configuration, that the other one does not have.
fn needs_other_manifest(error: &anyhow::Error) -> bool {
    let problem = error.downcast_ref::<Problem>();
    problem.is_some_and(|it| matches!(it.code, Code::InvalidPlugin | Code::DeployFailed))
}
