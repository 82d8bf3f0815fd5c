//! Where a request comes from.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Uri, header};

use super::super::problem::{Code, Problem};

/// The address from which a request comes; none within the process.
pub(super) fn peer(request: &Request) -> Option<IpAddr> {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map(|ConnectInfo(address)| address.ip())
}

/// Whether a request comes over the loopback interface, which only the machine itself can use.
pub(super) fn is_over_loopback(request: &Request) -> bool {
    // An IPv4 address has the form of IPv6 if the server listens on `[::]`.
    peer(request).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Where no token is needed, a web page must not be able to make somebody's browser ask: neither by a request across
/// origins, nor under a name that it lets point here.
pub(super) fn is_named_here(headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let named = [
        ("host", text(header::HOST)),
        // HTTP/2 has it in the place of `Host`.
        (":authority", uri.authority().map(|it| it.as_str())),
        ("origin", text(header::ORIGIN)),
    ];
    for (name, host) in named {
        let Some(host) = host else {
            continue;
        };
        if !is_loopback_host(host) {
            return Err(Problem::new(
                Code::Forbidden,
                format!(
                    "without tokens only requests to localhost are answered, and the header `{name}` says `{host}`; create a token with `millstream token create`, and send it"
                ),
            ));
        }
    }
    Ok(())
}

fn is_loopback_host(value: &str) -> bool {
    let host = value
        .strip_prefix("http://")
        .or_else(|| value.strip_prefix("https://"))
        .unwrap_or(value);
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn only_loopback_is_here() {
        for host in [
            "localhost",
            "localhost:8474",
            "127.0.0.1:1",
            "[::1]:8474",
            "http://localhost:3000",
            "LOCALHOST",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "127.0.0.1.example.com",
            "https://evil.example",
            "null",
            "10.0.0.1",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }

    #[test]
    fn only_the_loopback_interface_is_the_machine_itself() {
        let from = |address: &str| {
            let address = SocketAddr::new(address.parse().unwrap(), 50_000);
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(ConnectInfo(address));
            is_over_loopback(&request)
        };
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(from(address), "{address}");
        }
        for address in ["10.0.0.1", "0.0.0.0", "::", "fe80::1", "::ffff:10.0.0.1"] {
            assert!(!from(address), "{address}");
        }
        assert!(!is_over_loopback(&Request::new(Body::empty())));
    }
}
