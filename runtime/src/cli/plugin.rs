//! `millstream plugin`: upload, list, describe, deploy, roll back and delete plugins of a server.

mod deployed;
mod signature;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Subcommand;

use super::GlobalArgs;
use super::client::Client;
use super::confirm::confirm;
use super::exit::Ending;
use super::open::Access;
use super::output::{self, Column, Output, Table};
use super::progress::note;
use super::quantity::{duration_ms, format_time_ms};
use crate::model::PluginName;
use crate::server::{
    DeployRequest, DeployView, PluginDescription, PluginView, RollbackRequest, SIGNATURE,
    UploadedView,
};
pub(super) use signature::Signing;

/// The media type of a component.
const WASM: &str = "application/wasm";
/// How long one wait for the end of a deploy lasts, in ms.
const WAIT_MS: u64 = 20_000;
/// Digits of a digest in a table; the start of a digest stands for it.
const DIGEST_DIGITS: usize = 12;

/// The verbs on plugins.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// List the plugins that were uploaded
    List,
    /// Show a plugin's versions, who uses it, and what it imports and exports
    Describe {
        /// The plugin
        name: PluginName,
    },
    /// Upload a component as a version of a plugin
    ///
    /// Pipelines go on with the version that they run until this one is deployed; the first version of a plugin is
    /// deployed at once.
    Upload {
        /// The plugin
        name: PluginName,
        /// The component
        file: PathBuf,
        /// Deploy it, too
        #[arg(long)]
        deploy: bool,
        #[command(flatten)]
        signing: Signing,
        #[command(flatten)]
        trial: Trial,
    },
    /// Make a key with which components are signed
    ///
    /// The private key is written to FILE, for its owner only, the public one to FILE.pub, both in PEM.
    Keygen {
        /// The file to make
        file: PathBuf,
    },
    /// Sign a component: its signature is written to FILE.sig, which `upload` and `apply` send
    Sign {
        /// The component
        file: PathBuf,
        /// The private key, in PEM
        #[arg(long, value_name = "KEY", env = "MILLSTREAM_SIGNING_KEY")]
        key: PathBuf,
    },
    /// Give a version to all pipelines that use the plugin, at their next batch boundary
    Deploy {
        /// The plugin
        name: PluginName,
        /// SHA-256 of the version, or the start of it
        digest: String,
        #[command(flatten)]
        trial: Trial,
    },
    /// Give the version before the last deploy to all pipelines that use the plugin
    Rollback {
        /// The plugin
        name: PluginName,
        /// Put state and positions back, too, to where they were when the later version was deployed
        ///
        /// What came since is processed again; it is said which outputs cannot be taken back.
        #[arg(long)]
        with_state: bool,
    },
    /// Delete a plugin that no pipeline uses, with all its versions
    Delete {
        /// The plugin
        name: PluginName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// List what was deployed: when, from which version, to which, by which token
    Deploys,
}

/// How a version is tried out before it takes over.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Trial {
    /// Try it out on these partitions first, and promote it to all, or take it back, by itself
    #[arg(
        long,
        value_name = "PARTITIONS",
        value_delimiter = ',',
        requires = "duration"
    )]
    canary: Option<Vec<u32>>,
    /// Run it beside the version before, throw away what it makes, and report how the two differ
    #[arg(long, requires = "duration", conflicts_with = "canary")]
    shadow: bool,
    /// How long a canary or a shadow runs
    #[arg(long = "for", id = "duration", value_name = "DURATION", value_parser = duration_ms)]
    duration_ms: Option<u64>,
}

/// Runs a verb.
pub(super) async fn run(
    command: PluginCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    // These ask no server.
    match &command {
        PluginCommand::Keygen { file } => return signature::keygen(file, output),
        PluginCommand::Sign { file, key } => return signature::sign(file, key, output),
        _ => {}
    }
    let client = Client::connect(global, Access::Existing)?;
    match command {
        PluginCommand::Keygen { .. } | PluginCommand::Sign { .. } => {}
        PluginCommand::List => list(&client, output).await?,
        PluginCommand::Describe { name } => {
            let path = format!("/v1/plugins/{name}");
            let plugin: PluginDescription = client.get(&path, &()).await?;
            output.result(&plugin, |output| write(&plugin, output))?;
        }
        PluginCommand::Upload {
            name,
            file,
            deploy: is_deploy,
            signing,
            trial,
        } => {
            let uploaded = upload(&client, &name, &file, &signing).await?;
            output.result(&uploaded, |output| write_uploaded(&uploaded, output))?;
            output.flush()?;
            tell(&uploaded);
            if !is_deploy && !uploaded.current {
                note(&format!(
                    "pipelines go on with the version that they run; `millstream plugin deploy {name} {}` gives them this one",
                    short(&uploaded.digest)
                ));
            }
            if is_deploy && !uploaded.current {
                let deployed = deploy(&client, &name, &uploaded.digest, &trial).await?;
                return deployed::write(&deployed, output);
            }
        }
        PluginCommand::Deploy {
            name,
            digest,
            trial,
        } => {
            let deployed = deploy(&client, &name, &digest, &trial).await?;
            return deployed::write(&deployed, output);
        }
        PluginCommand::Rollback { name, with_state } => {
            let path = format!("/v1/plugins/{name}/rollback");
            let request = RollbackRequest { with_state };
            let rolled_back: DeployView = client.post(&path, &request).await?;
            return deployed::write(&rolled_back, output);
        }
        PluginCommand::Delete { name, yes } => {
            if !yes && !confirm(&format!("delete plugin `{name}` with all its versions?"))? {
                note("nothing was deleted");
                return Ok(Ending::Failed);
            }
            client.remove(&format!("/v1/plugins/{name}")).await?;
            output.result(&serde_json::json!({ "name": name }), |output| {
                output.line(format_args!("deleted plugin `{name}`"))
            })?;
        }
        PluginCommand::Deploys => deploys(&client, output).await?,
    }
    Ok(Ending::Done)
}

/// Uploads a component.
pub(super) async fn upload(
    client: &Client,
    name: &PluginName,
    file: &Path,
    signing: &Signing,
) -> anyhow::Result<UploadedView> {
    let wasm = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let signature = signing.signature(file, &wasm)?;
    let header = signature.as_ref().map(|it| (SIGNATURE, it.to_string()));
    let path = format!("/v1/plugins/{name}/versions");
    let answer = client
        .post_with(&path, WASM, Bytes::from(wasm), header)
        .await?;
    let uploaded: UploadedView = serde_json::from_slice(&answer.body)?;
    if signature.is_some() && uploaded.signer.is_none() {
        note(
            "the server trusts no keys, so that it has neither checked nor kept the signature; see `serve --trusted-key`",
        );
    }
    Ok(uploaded)
}

/// Gives a version to all pipelines that use the plugin.
pub(super) async fn deploy(
    client: &Client,
    name: &PluginName,
    digest: &str,
    trial: &Trial,
) -> anyhow::Result<DeployView> {
    let request = DeployRequest {
        digest: digest.to_owned(),
        canary: trial.canary.clone(),
        shadow: trial.shadow,
        duration_ms: trial.duration_ms,
    };
    let path = format!("/v1/plugins/{name}/deploy");
    let mut deploy: DeployView = client.post(&path, &request).await?;
    let path = format!("/v1/deploys/{}", deploy.id);
    while deploy.ended_ms.is_none() {
        deploy = client.get(&path, &[("wait_ms", WAIT_MS)]).await?;
    }
    Ok(deploy)
}

fn write_uploaded(uploaded: &UploadedView, output: &mut Output) -> Result<(), output::Error> {
    let word = match uploaded.new {
        true => "uploaded",
        // The same bytes: other bytes are another version.
        false => "the server has already",
    };
    let current = match uploaded.current {
        true => ", which is the current one",
        false => "",
    };
    output.line(format_args!(
        "{word} version {} of plugin `{}`{current}",
        uploaded.digest, uploaded.name
    ))
}

/// Says what is different about a version, and what to do about that.
fn tell(uploaded: &UploadedView) {
    for difference in &uploaded.differences {
        let kind = if difference.breaks {
            "breaking"
        } else {
            "note"
        };
        note(&format!(
            "{kind}: {}; {}",
            difference.what, difference.remedy
        ));
    }
    for misfit in &uploaded.misfits {
        note(&format!(
            "pipeline `{}` cannot run it: {}",
            misfit.pipeline, misfit.reason
        ));
    }
}

async fn list(client: &Client, output: &mut Output) -> anyhow::Result<()> {
    let plugins: Vec<PluginView> = client.get("/v1/plugins", &()).await?;
    output.result(&plugins, |output| {
        let mut table = Table::new(&[
            Column::Text("plugin"),
            Column::Text("current"),
            Column::Number("versions"),
            Column::Text("signed by"),
            Column::Text("used by"),
        ]);
        for plugin in &plugins {
            let mut versions = plugin.versions.iter();
            let current = versions.find(|version| version.digest == plugin.current);
            let signer = current.and_then(|version| version.signer.clone());
            let used_by: Vec<_> = plugin.used_by.iter().map(ToString::to_string).collect();
            table.row([
                plugin.name.to_string(),
                short(&plugin.current),
                plugin.versions.len().to_string(),
                signer.unwrap_or_else(none),
                used_by.join(","),
            ]);
        }
        output.table_or(
            &table,
            "No plugin was uploaded yet; `millstream plugin upload NAME FILE` does it.",
        )
    })?;
    Ok(())
}

fn write(description: &PluginDescription, output: &mut Output) -> Result<(), output::Error> {
    let plugin = &description.plugin;
    let mut fields = vec![
        ("plugin", plugin.name.to_string()),
        ("current", plugin.current.clone()),
    ];
    for pipeline in &plugin.used_by {
        fields.push(("used by", pipeline.to_string()));
    }
    for export in &description.exports {
        fields.push(("exports", export.clone()));
    }
    for import in &description.imports {
        let functions = import.functions.join(", ");
        fields.push(("imports", format!("{}: {functions}", import.interface)));
    }
    output.fields(&fields)?;
    output.line("")?;
    let mut table = Table::new(&[
        Column::Text("version"),
        Column::Number("bytes"),
        Column::Text("uploaded"),
        Column::Text("by"),
        Column::Text("signed by"),
    ]);
    for version in &plugin.versions {
        table.row([
            version.digest.clone(),
            output.bytes(version.size_bytes),
            format_time_ms(version.uploaded_ms),
            version.uploaded_by.clone().unwrap_or_else(none),
            version.signer.clone().unwrap_or_else(none),
        ]);
    }
    output.table(&table)
}

async fn deploys(client: &Client, output: &mut Output) -> anyhow::Result<()> {
    let deploys: Vec<DeployView> = client.get("/v1/deploys", &()).await?;
    output.result(&deploys, |output| {
        let mut table = Table::new(&[
            Column::Number("deploy"),
            Column::Text("when"),
            Column::Text("plugin"),
            Column::Text("from"),
            Column::Text("to"),
            Column::Text("by"),
            Column::Text("signed by"),
            Column::Text("outcome"),
        ]);
        for deploy in &deploys {
            table.row([
                deploy.id.to_string(),
                format_time_ms(deploy.started_ms),
                deploy.plugin.to_string(),
                deploy.from.as_deref().map_or_else(none, short),
                short(&deploy.to),
                deploy.by.clone().unwrap_or_else(none),
                deploy.signer.clone().unwrap_or_else(none),
                deploy.outcome.clone(),
            ]);
        }
        output.table_or(&table, "Nothing was deployed yet.")
    })?;
    Ok(())
}

fn none() -> String {
    "-".to_owned()
}

/// The start of a digest.
fn short(digest: &str) -> String {
    digest.chars().take(DIGEST_DIGITS).collect()
}
