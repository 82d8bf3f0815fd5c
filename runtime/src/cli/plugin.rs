//! `millstream plugin`: upload, list, describe, deploy, roll back and delete plugins.

mod deployed;
mod signature;
mod upload;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::GlobalArgs;
use super::client::Client;
use super::confirm::confirm;
use super::exit::Ending;
use super::open::Access;
use super::output::{self, Column, Output, Table};
use super::progress::note;
use super::quantity::{duration_ms, format_time_ms};
use super::signatures::SignatureArgs;
use crate::deploy::Offline;
use crate::model::PluginName;
use crate::server::{
    Code, DeployRequest, DeployView, PluginDescription, PluginView, Problem, RollbackRequest,
};
pub(super) use signature::Signing;
pub(super) use upload::{NewComponent, UploadArgs, upload};

/// The heading of options that a server takes when it starts.
pub(super) const OFFLINE: &str = "Where no server runs (one that does has its own)";
/// How long one wait for the end of a deploy lasts, in ms.
const WAIT_MS: u64 = 20_000;
/// How often the deploy is looked at where as many wait at the server as may.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The outcome of a deploy that begins with the next server.
const WAITING: &str = "waiting";
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
    Upload(UploadArgs),
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
    ///
    /// Where no server runs a canary or a shadow waits for the next one, which begins it.
    Deploy {
        /// The plugin
        name: PluginName,
        /// SHA-256 of the version, or the start of it
        digest: String,
        #[command(flatten)]
        trial: Trial,
        #[command(flatten, next_help_heading = OFFLINE)]
        signatures: SignatureArgs,
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
        #[command(flatten, next_help_heading = OFFLINE)]
        signatures: SignatureArgs,
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
    /// End a canary, of which the version is taken back, or a shadow before its time is over
    ///
    /// One that waits for a server is withdrawn.
    StopDeploy {
        /// The number of the deploy
        id: u64,
    },
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
    match command {
        PluginCommand::Keygen { file } => return signature::keygen(&file, output),
        PluginCommand::Sign { file, key } => return signature::sign(&file, &key, output),
        PluginCommand::Upload(args) => return upload::run(args, global, output).await,
        PluginCommand::List => list(&look(global).await?, output).await?,
        PluginCommand::Describe { name } => {
            let path = format!("/v1/plugins/{name}");
            let plugin: PluginDescription = look(global).await?.get(&path, &()).await?;
            output.result(&plugin, |output| write(&plugin, output))?;
        }
        PluginCommand::Deploy {
            name,
            digest,
            trial,
            signatures,
        } => {
            let client = connect_trusting(global, &signatures).await?;
            let deployed = deploy(&client, &name, &digest, &trial).await?;
            return deployed::write(&deployed, output);
        }
        PluginCommand::Rollback {
            name,
            with_state,
            signatures,
        } => {
            let client = connect_trusting(global, &signatures).await?;
            let path = format!("/v1/plugins/{name}/rollback");
            let request = RollbackRequest { with_state };
            let rolled_back: DeployView = client.post(&path, &request).await?;
            return deployed::write(&rolled_back, output);
        }
        PluginCommand::Delete { name, yes } => {
            let client = connect_trusting(global, &SignatureArgs::default()).await?;
            if !yes && !confirm(&format!("delete plugin `{name}` with all its versions?"))? {
                note("nothing was deleted");
                return Ok(Ending::Failed);
            }
            client.remove(&format!("/v1/plugins/{name}")).await?;
            output.result(&serde_json::json!({ "name": name }), |output| {
                output.line(format_args!("deleted plugin `{name}`"))
            })?;
        }
        PluginCommand::Deploys => deploys(&look(global).await?, output).await?,
        PluginCommand::StopDeploy { id } => {
            let client = connect_trusting(global, &SignatureArgs::default()).await?;
            let path = format!("/v1/deploys/{id}/stop");
            let stopped: DeployView = client.post(&path, &()).await?;
            // However it has gone, it has ended.
            deployed::write(&stopped, output)?;
        }
    }
    Ok(Ending::Done)
}

async fn look(global: &GlobalArgs) -> anyhow::Result<Client> {
    let signatures = SignatureArgs::default();
    Client::connect_to_deployments(global, Access::Existing, &signatures, Offline::Looking).await
}

async fn connect_trusting(
    global: &GlobalArgs,
    signatures: &SignatureArgs,
) -> anyhow::Result<Client> {
    Client::connect_to_deployments(global, Access::Existing, signatures, Offline::Changing).await
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
        manifest: None,
        duration_ms: trial.duration_ms,
    };
    send_deploy(client, name, &request).await
}

/// As [`deploy`], for a manifest: pipelines of others get no other version by it.
pub(super) async fn deploy_for_manifest(
    client: &Client,
    manifest: &str,
    name: &PluginName,
    digest: &str,
) -> anyhow::Result<DeployView> {
    let request = DeployRequest {
        digest: digest.to_owned(),
        manifest: Some(manifest.to_owned()),
        ..DeployRequest::default()
    };
    send_deploy(client, name, &request).await
}

async fn send_deploy(
    client: &Client,
    name: &PluginName,
    request: &DeployRequest,
) -> anyhow::Result<DeployView> {
    let path = format!("/v1/plugins/{name}/deploy");
    let mut deploy: DeployView = client.post(&path, request).await?;
    let path = format!("/v1/deploys/{}", deploy.id);
    let mut wait_ms = WAIT_MS;
    while deploy.ended_ms.is_none() && deploy.outcome != WAITING {
        match client.get(&path, &[("wait_ms", wait_ms)]).await {
            Ok(found) => {
                deploy = found;
                wait_ms = WAIT_MS;
            }
            // The deploy goes on, however many wait at the server: then it is looked at from time to time.
            Err(error) if is_busy(&error) => {
                tokio::time::sleep(LOOK_INTERVAL).await;
                wait_ms = 0;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(deploy)
}

fn is_busy(error: &anyhow::Error) -> bool {
    let problem = error.downcast_ref::<Problem>();
    problem.is_some_and(|problem| problem.code == Code::Busy)
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
