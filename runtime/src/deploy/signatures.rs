//! Which versions of plugins may run: with `required`, those that a trusted key has signed.
//!
//! A version is looked at when it is uploaded, and again each time before it is given to a pipeline: when it is
//! deployed, when a manifest with it is applied, and when the server starts. So what was uploaded before a
//! signature was required, or was signed with a key that is not trusted any more, does not run either.

use tokio::task::block_in_place;

use super::records::PluginVersion;
use super::{Deployments, Error};
use crate::model::PluginName;
use crate::plugin::{Digest, Signature, TrustedKeys};

/// Whose signatures count, and whether a version needs one.
#[derive(Clone, Debug, Default)]
pub struct SignatureRules {
    /// The keys whose signatures count. Without any, signatures are neither checked nor kept.
    pub trusted: TrustedKeys,
    /// Whether only signed versions may run.
    pub required: bool,
}

impl SignatureRules {
    /// Checks an upload. Returns the signature to keep.
    pub(super) fn check_upload(
        &self,
        name: &PluginName,
        digest: &Digest,
        signature: Option<Signature>,
        wasm: &[u8],
    ) -> Result<Option<Signature>, Error> {
        match signature {
            None if self.required => Err(unsigned(name, digest)),
            Some(signature) if self.required || !self.trusted.is_empty() => {
                self.check(name, digest, &signature, wasm)?;
                Ok(Some(signature))
            }
            _ => Ok(None),
        }
    }

    fn check(
        &self,
        name: &PluginName,
        digest: &Digest,
        signature: &Signature,
        wasm: &[u8],
    ) -> Result<(), Error> {
        self.trusted
            .check(signature, wasm)
            .map_err(|reason| Error::UntrustedSignature {
                name: name.clone(),
                digest: digest.clone(),
                reason,
            })
    }
}

impl Deployments {
    /// Checks that a version may run.
    pub(super) fn check_signed(
        &self,
        name: &PluginName,
        version: &PluginVersion,
    ) -> Result<(), Error> {
        let rules = &self.shared.signatures;
        if !rules.required {
            return Ok(());
        }
        let digest = &version.digest;
        let kept = version.signature.as_deref();
        let signature = kept.and_then(|kept| kept.parse().ok());
        let signature = signature.ok_or_else(|| unsigned(name, digest))?;
        block_in_place(|| {
            let wasm = self.shared.components.read(digest)?;
            rules.check(name, digest, &signature, &wasm)
        })
    }
}

fn unsigned(name: &PluginName, digest: &Digest) -> Error {
    Error::UnsignedPlugin {
        name: name.clone(),
        digest: digest.clone(),
    }
}
