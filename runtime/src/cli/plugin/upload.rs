//! `millstream plugin upload`, and the uploads of `apply`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;

use super::signature::Signing;
use super::{OFFLINE, Trial, connect_trusting, deployed, short};
use crate::cli::GlobalArgs;
use crate::cli::client::Client;
use crate::cli::exit::Ending;
use crate::cli::output::{Error, Output};
use crate::cli::progress::note;
use crate::cli::signatures::SignatureArgs;
use crate::model::PluginName;
use crate::plugin::{Digest, Signature};
use crate::server::{SIGNATURE, UploadedView};

/// The media type of a component.
const WASM: &str = "application/wasm";

/// Arguments of `plugin upload`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct UploadArgs {
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
    #[command(flatten, next_help_heading = OFFLINE)]
    signatures: SignatureArgs,
}

/// A component to upload.
pub(in crate::cli) struct NewComponent {
    wasm: Bytes,
    signature: Option<Signature>,
}

impl NewComponent {
    /// Reads a component, and signs it or reads its signature.
    pub(in crate::cli) fn read(file: &Path, signing: &Signing) -> anyhow::Result<Self> {
        let wasm =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self {
            signature: signing.signature(file, &wasm)?,
            wasm: wasm.into(),
        })
    }

    /// The version that it is.
    pub(in crate::cli) fn digest(&self) -> Digest {
        Digest::of(&self.wasm)
    }
}

/// Uploads a component, and deploys it if that is asked for.
pub(super) async fn run(
    args: UploadArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let component = NewComponent::read(&args.file, &args.signing)?;
    let client = connect_trusting(global, &args.signatures).await?;
    let name = &args.name;
    let uploaded = upload(&client, name, &component).await?;
    output.result(&uploaded, |output| write(&uploaded, output))?;
    output.flush()?;
    tell(&uploaded);
    if uploaded.current {
        return Ok(Ending::Done);
    }
    if args.deploy {
        let deployed = super::deploy(&client, name, &uploaded.digest, &args.trial).await?;
        return deployed::write(&deployed, output);
    }
    note(&format!(
        "pipelines go on with the version that they run; `millstream plugin deploy {name} {}` gives them this one",
        short(&uploaded.digest)
    ));
    Ok(Ending::Done)
}

/// Uploads a component.
pub(in crate::cli) async fn upload(
    client: &Client,
    name: &PluginName,
    component: &NewComponent,
) -> anyhow::Result<UploadedView> {
    let NewComponent { wasm, signature } = component;
    let header = signature.as_ref().map(|it| (SIGNATURE, it.to_string()));
    let path = format!("/v1/plugins/{name}/versions");
    let answer = client.post_with(&path, WASM, wasm.clone(), header).await?;
    let uploaded: UploadedView = serde_json::from_slice(&answer.body)?;
    if signature.is_some() && uploaded.signer.is_none() {
        note(match client.is_offline() {
            true => {
                "no key is trusted, so that the signature was neither checked nor kept; name those that are with --trusted-key"
            }
            false => {
                "the server trusts no keys, so that it has neither checked nor kept the signature; see `serve --trusted-key`"
            }
        });
    }
    Ok(uploaded)
}

fn write(uploaded: &UploadedView, output: &mut Output) -> Result<(), Error> {
    let word = match uploaded.new {
        true => "uploaded",
        // The same bytes: other bytes are another version.
        false => "there is already",
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
