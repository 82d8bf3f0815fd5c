//! Where a server is to listen: an address and a port, or the name of a host in its place.

use std::net::{SocketAddr, ToSocketAddrs as _};

const EXPECTED: &str = "expected an address or a host name, and a port, such as 127.0.0.1:8474, [::1]:8474 or localhost:8474";
/// The name that is to mean the same address everywhere.
const LOCALHOST: &str = "localhost";

/// What is wrong with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// There is no host, no port, or something else.
    #[error("{EXPECTED}")]
    Malformed,
    /// The system knows no address of the host.
    #[error("no address is known of the host `{host}`: {reason}")]
    Unresolved {
        /// The host's name.
        host: String,
        /// The system's message.
        reason: String,
    },
}

/// Reads where to listen. A name stands for the first address that the system knows of it, and `localhost` for its IPv4
/// address, if it has one: that is where those who name no server look for it.
///
/// # Errors
/// See [`Error`].
pub(super) fn parse(text: &str) -> Result<SocketAddr, Error> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or(Error::Malformed)?;
    let port: u16 = port.parse().map_err(|_| Error::Malformed)?;
    // The system would take `::1` for port 1 of any address.
    if host.is_empty() || host.contains([':', '[', ']']) {
        return Err(Error::Malformed);
    }
    let unresolved = |reason: String| Error::Unresolved {
        host: host.to_owned(),
        reason,
    };
    let resolved = (host, port).to_socket_addrs();
    let addresses: Vec<_> = resolved
        .map_err(|error| unresolved(error.to_string()))?
        .collect();
    let preferred = addresses
        .iter()
        .find(|address| host.eq_ignore_ascii_case(LOCALHOST) && address.is_ipv4());
    let chosen = preferred.or(addresses.first()).copied();
    chosen.ok_or_else(|| unresolved("it has none".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_itself_and_a_name_an_address_of_it() {
        for text in ["127.0.0.1:8474", "0.0.0.0:0", "[::1]:8474"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let local = parse("localhost:8474").unwrap();
        assert!(local.ip().is_loopback(), "{local}");
        assert_eq!(local.port(), 8474);
    }

    #[test]
    fn what_is_no_address_and_no_name_is_refused() {
        for text in [
            "",
            "localhost",
            ":8474",
            "::1",
            "::1:8474",
            "[::1]",
            "[localhost]:8474",
            "localhost:99999",
            "localhost:",
            "127.0.0.1",
        ] {
            assert_eq!(parse(text), Err(Error::Malformed), "{text}");
        }
        // No name has a space, so that nobody is asked for it.
        let unknown = parse("no such host:8474").unwrap_err().to_string();
        assert!(unknown.contains("host `no such host`"), "{unknown}");
    }
}
