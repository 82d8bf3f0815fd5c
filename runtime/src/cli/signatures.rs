//! Whose signatures of plugins count: for `serve`, and for the verbs that deploy where no server runs.

use std::path::PathBuf;

use anyhow::Context as _;

use super::exit::Usage;
use crate::deploy::SignatureRules;
use crate::plugin::{PublicKey, TrustedKeys};

/// Whose signatures count, and whether a plugin needs one.
#[derive(Debug, Default, clap::Args)]
pub(super) struct SignatureArgs {
    /// Run only plugins that one of the trusted keys has signed
    ///
    /// That holds for what is uploaded, and for what was uploaded before.
    #[arg(long, requires = "trusted_key")]
    require_signature: bool,

    /// A public key, in PEM, whose signatures of plugins count (may be repeated)
    #[arg(
        long,
        value_name = "FILE",
        env = "MILLSTREAM_TRUSTED_KEYS",
        value_delimiter = ','
    )]
    trusted_key: Vec<PathBuf>,
}

impl SignatureArgs {
    /// Reads the keys.
    pub(super) fn rules(&self) -> anyhow::Result<SignatureRules> {
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let key = PublicKey::from_pem(&text);
            key.map_err(|error| {
                anyhow::Error::new(Usage(format!("cannot trust {}: {error}", path.display())))
            })
        };
        let trusted = self.trusted_key.iter().map(read);
        Ok(SignatureRules {
            trusted: TrustedKeys::new(trusted.collect::<anyhow::Result<_>>()?),
            required: self.require_signature,
        })
    }
}
