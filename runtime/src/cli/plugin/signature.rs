//! `millstream plugin keygen` and `plugin sign`, and the signature that goes with an upload.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::exit::{Ending, Usage};
use crate::cli::output::Output;
use crate::plugin::{Signature, SigningKey};

/// Only the owner reads a private key.
const KEY_MODE: u32 = 0o600;

/// Where the signature of an upload comes from.
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Signing {
    /// Sign components with this private key, in PEM, and send the signatures with them
    ///
    /// Without it the signature in FILE.sig is sent, if there is such a file.
    #[arg(long, value_name = "KEY", env = "MILLSTREAM_SIGNING_KEY")]
    sign: Option<PathBuf>,
}

impl Signing {
    /// The signature to send with the component of a file.
    pub(in crate::cli) fn signature(
        &self,
        file: &Path,
        wasm: &[u8],
    ) -> anyhow::Result<Option<Signature>> {
        if let Some(key) = &self.sign {
            return Ok(Some(read_key(key)?.sign(wasm)));
        }
        let path = signature_path(file);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let signature = text
            .parse()
            .with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Some(signature))
    }
}

/// A key that was made.
#[derive(Debug, Serialize)]
struct NewKey {
    id: String,
    private_key: PathBuf,
    public_key: PathBuf,
}

/// Makes a key, in two files.
pub(super) fn keygen(file: &Path, output: &mut Output) -> anyhow::Result<Ending> {
    let (pem, public) = SigningKey::generate()?;
    let public_key = with_suffix(file, ".pub");
    // The public one first: a private key of which the other half could not be written would be in the way.
    write_new(&public_key, public.to_pem().as_bytes(), 0o644)?;
    if let Err(error) = write_new(file, pem.as_bytes(), KEY_MODE) {
        // It belongs to nothing.
        let _ = fs::remove_file(&public_key);
        return Err(error);
    }
    let made = NewKey {
        id: public.id().to_string(),
        private_key: file.to_owned(),
        public_key,
    };
    output.result(&made, |output| {
        output.fields(&[
            ("key", made.id.clone()),
            ("private key", made.private_key.display().to_string()),
            ("public key", made.public_key.display().to_string()),
        ])
    })?;
    super::note(
        "keep the private key secret; give the public one to the server: `millstream serve --trusted-key FILE`",
    );
    Ok(Ending::Done)
}

/// A signature that was made.
#[derive(Debug, Serialize)]
struct Signed {
    signer: String,
    signature: PathBuf,
}

/// Writes the signature of a file beside it.
pub(super) fn sign(file: &Path, key: &Path, output: &mut Output) -> anyhow::Result<Ending> {
    let wasm = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let signature = read_key(key)?.sign(&wasm);
    let path = signature_path(file);
    fs::write(&path, format!("{signature}\n"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let signed = Signed {
        signer: signature.key().to_string(),
        signature: path,
    };
    output.result(&signed, |output| {
        output.line(format_args!(
            "signed with key {}: {}",
            signed.signer,
            signed.signature.display()
        ))
    })?;
    Ok(Ending::Done)
}

fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let key = SigningKey::from_pem(&text);
    key.with_context(|| format!("cannot sign with {}", path.display()))
}

fn signature_path(file: &Path) -> PathBuf {
    with_suffix(file, ".sig")
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes a file that must not exist: a key that is written over is lost.
fn write_new(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    match options.open(path) {
        Ok(mut file) => file
            .write_all(content)
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Usage(format!(
            "{} exists already, and no key is written over; name another file",
            path.display()
        ))
        .into()),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}
