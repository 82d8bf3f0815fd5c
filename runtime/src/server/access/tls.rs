//! TLS, from files in PEM.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that lead to a root, in PEM.
    pub certificates: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// What is wrong with the files.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot use {path} for TLS: {reason}")]
pub struct TlsError {
    path: String,
    reason: String,
}

impl TlsFiles {
    /// What the listener needs.
    ///
    /// # Errors
    /// A file cannot be read, or holds something else; the key does not belong to the certificate.
    pub(in crate::server) fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let wrong = |path: &PathBuf, reason: String| TlsError {
            path: path.display().to_string(),
            reason,
        };
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&self.certificates).and_then(Iterator::collect);
        let certificates =
            certificates.map_err(|error| wrong(&self.certificates, error.to_string()))?;
        if certificates.is_empty() {
            let reason = "it holds no certificate; expected PEM".to_owned();
            return Err(wrong(&self.certificates, reason));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| wrong(&self.key, error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(certificates, key)
            })
            .map_err(|error| wrong(&self.certificates, error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
