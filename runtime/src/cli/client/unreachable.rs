//! Why a server could not be asked, and what may help.

use rustls::CertificateError;

/// The server could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the server at {url}: {reason}")]
pub(in crate::cli) struct Unreachable {
    url: String,
    reason: String,
}

impl Unreachable {
    pub(super) fn new(url: &str, error: &ureq::Error) -> Self {
        let reason = match (tls_error(error), url.starts_with("https://")) {
            (Some(error), _) => of_tls(error, url),
            (None, false) if is_no_http(error) => format!(
                "what answers there does not speak HTTP; if it has TLS, its URL is https://{}",
                without_scheme(url)
            ),
            (None, _) => error.to_string(),
        };
        Self {
            url: url.to_owned(),
            reason,
        }
    }
}

/// What TLS says: it comes within an error of the connection, on which the handshake takes place.
fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn of_tls(error: &rustls::Error, url: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate comes from no certificate authority that is trusted here; name the file that has the \
             authority's certificate, in PEM, with --server-ca FILE"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("{error}; ask it by a name that its certificate has"),
        rustls::Error::InvalidMessage(_) => format!(
            "what answers there does not speak TLS; if it has none, its URL is http://{}",
            without_scheme(url)
        ),
        _ => error.to_string(),
    }
}

/// Whether the answer was none of HTTP: a server with TLS answers a request without with an alert.
fn is_no_http(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Protocol(_))
}

fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest)
}
