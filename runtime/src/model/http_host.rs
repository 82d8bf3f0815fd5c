//! Hosts of HTTP services: which of them a pipeline lets its plugin call, and how they are written.
//!
//! What is compared is what the request says, never an address that a name resolves to: whoever lists a
//! name trusts whatever that name resolves to. Both sides are brought into one form first, so that there
//! are no two ways to write a host. Notations of IPv4 addresses that some resolvers understand, such as
//! `127.1` or `0x7f000001`, are no hosts at all here.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest name of a host, in bytes; what DNS allows.
const MAX_NAME_BYTES: usize = 253;
/// Longest part of a name between two dots, in bytes; what DNS allows.
const MAX_LABEL_BYTES: usize = 63;

/// A host, in the one form in which it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HttpHost {
    /// A name, in lower-case letters.
    Name(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address; written in brackets.
    V6(Ipv6Addr),
}

/// A host with or without a port: what stands between `//` and `/` in a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpAuthority {
    /// The host.
    pub host: HttpHost,
    /// The port, if it is written.
    pub port: Option<u16>,
}

/// An entry of a list of hosts that may be called: `host` or `*.domain`, each with or without `:port`.
///
/// `*.domain` stands for every name that ends in `.domain`, and not for `domain` itself. Without a port
/// an entry stands for the default port of the request's scheme: 80 for `http`, 443 for `https`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpHostPattern {
    is_below: bool,
    authority: HttpAuthority,
}

/// Why a text is no host, or no entry of a list of hosts. `Display` completes "… is no host: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHttpHost {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// It is a URL, or has a path.
    #[error("it holds more than a host and a port; leave out the scheme and the path")]
    Url,
    /// It names a user.
    #[error("it names a user; leave out what is before the `@`")]
    User,
    /// A `*` is somewhere else than in the first place.
    #[error("a `*` stands only in the first place, followed by a dot: `*.example.com`")]
    Wildcard,
    /// `*` before an address.
    #[error("`*.` stands only before a name, not before an address")]
    WildcardAddress,
    /// The port is none.
    #[error("the port must be a whole number from 1 to 65535")]
    Port,
    /// An IPv6 address that is none, or is not in brackets.
    #[error("an IPv6 address must be whole and in brackets: `[::1]`")]
    V6,
    /// The last part of a name is a number.
    #[error("an IPv4 address must be written as four decimal numbers: `127.0.0.1`")]
    V4,
    /// A character that no host has.
    #[error(
        "a name has the characters a-z, A-Z, 0-9, `-`, `_` and `.`; other letters must be written in \
         punycode (`xn--…`)"
    )]
    Character,
    /// A name, or a part of it, that is empty or too long.
    #[error("a name has at most 253 characters, and 1 to 63 between two dots")]
    Length,
}

impl FromStr for HttpHost {
    type Err = InvalidHttpHost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidHttpHost::Empty);
        }
        if let Some(address) = text.strip_prefix('[') {
            let address = address.strip_suffix(']').ok_or(InvalidHttpHost::V6)?;
            return address
                .parse()
                .map(Self::V6)
                .map_err(|_| InvalidHttpHost::V6);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::V4(address));
        }
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !text.bytes().all(is_allowed) {
            return Err(InvalidHttpHost::Character);
        }
        let is_label = |label: &str| (1..=MAX_LABEL_BYTES).contains(&label.len());
        if text.len() > MAX_NAME_BYTES || !text.split('.').all(is_label) {
            return Err(InvalidHttpHost::Length);
        }
        let name = text.to_ascii_lowercase();
        match name.rsplit('.').next() {
            Some(last) if is_number(last) => Err(InvalidHttpHost::V4),
            _ => Ok(Self::Name(name)),
        }
    }
}

/// Whether a resolver may take the last label of a name, and so the name, for a number.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

impl FromStr for HttpAuthority {
    type Err = InvalidHttpHost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(['/', '?', '#', '\\']) {
            return Err(InvalidHttpHost::Url);
        }
        if text.contains('@') {
            return Err(InvalidHttpHost::User);
        }
        let host_end = match text.find(']') {
            Some(bracket) => bracket + 1,
            None if text.matches(':').count() > 1 => return Err(InvalidHttpHost::V6),
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(host_end);
        let port = match port.strip_prefix(':') {
            Some(digits) => Some(parse_port(digits)?),
            None if port.is_empty() => None,
            None => return Err(InvalidHttpHost::V6),
        };
        let host = host.parse()?;
        Ok(Self { host, port })
    }
}

fn parse_port(digits: &str) -> Result<u16, InvalidHttpHost> {
    // Not a sign, which `parse` would take.
    let is_port = digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(port) if is_port && port > 0 => Ok(port),
        _ => Err(InvalidHttpHost::Port),
    }
}

impl FromStr for HttpHostPattern {
    type Err = InvalidHttpHost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let below = text.strip_prefix("*.");
        let rest = below.unwrap_or(text);
        if rest.contains('*') {
            return Err(InvalidHttpHost::Wildcard);
        }
        let authority: HttpAuthority = rest.parse()?;
        if below.is_some() && !matches!(authority.host, HttpHost::Name(_)) {
            return Err(InvalidHttpHost::WildcardAddress);
        }
        Ok(Self {
            is_below: below.is_some(),
            authority,
        })
    }
}

impl HttpHostPattern {
    /// Whether the entry stands for this host and port; `default_port` is that of the request's scheme,
    /// and the request's port if it names none.
    pub fn matches(&self, authority: &HttpAuthority, default_port: u16) -> bool {
        let port = authority.port.unwrap_or(default_port);
        if port != self.authority.port.unwrap_or(default_port) {
            return false;
        }
        match (&self.authority.host, &authority.host) {
            (HttpHost::Name(domain), HttpHost::Name(name)) if self.is_below => name
                .strip_suffix(domain.as_str())
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
            (listed, asked) => !self.is_below && listed == asked,
        }
    }
}

impl fmt::Display for HttpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for HttpAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for HttpHostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_below { "*." } else { "" })?;
        write!(f, "{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HTTP: u16 = 80;
    const HTTPS: u16 = 443;

    fn is_allowed(pattern: &str, authority: &str, default_port: u16) -> bool {
        let pattern: HttpHostPattern = pattern.parse().unwrap();
        pattern.matches(&authority.parse().unwrap(), default_port)
    }

    #[test]
    fn a_host_is_itself_whatever_its_case() {
        assert!(is_allowed("api.example.com", "API.Example.COM", HTTPS));
        assert!(is_allowed("Api.Example.com", "api.example.com", HTTP));
        for other in [
            "example.com",
            "x.api.example.com",
            "api.example.com.evil.org",
            "api-example.com",
            "xapi.example.com",
        ] {
            assert!(!is_allowed("api.example.com", other, HTTPS), "{other}");
        }
    }

    #[test]
    fn without_a_port_it_is_the_default_port_of_the_scheme() {
        assert!(is_allowed("a.org", "a.org", HTTP));
        assert!(is_allowed("a.org", "a.org:80", HTTP));
        assert!(is_allowed("a.org", "a.org:443", HTTPS));
        assert!(!is_allowed("a.org", "a.org:443", HTTP));
        assert!(!is_allowed("a.org", "a.org:8080", HTTP));
        assert!(is_allowed("a.org:8080", "a.org:8080", HTTP));
        assert!(is_allowed("a.org:8080", "a.org:8080", HTTPS));
        assert!(!is_allowed("a.org:8080", "a.org", HTTP));
        assert!(is_allowed("a.org:443", "a.org", HTTPS));
        assert!(!is_allowed("a.org:443", "a.org", HTTP));
    }

    #[test]
    fn a_wildcard_is_every_name_below_and_not_the_domain() {
        assert!(is_allowed("*.example.com", "a.example.com", HTTPS));
        assert!(is_allowed("*.example.com", "a.b.example.com", HTTPS));
        assert!(is_allowed("*.example.com:99", "a.example.com:99", HTTPS));
        for other in ["example.com", "aexample.com", "a.example.com.org"] {
            assert!(!is_allowed("*.example.com", other, HTTPS), "{other}");
        }
    }

    #[test]
    fn an_address_is_itself_however_it_is_written() {
        assert!(is_allowed("127.0.0.1:80", "127.0.0.1", HTTP));
        assert!(is_allowed("[::1]", "[0:0:0:0:0:0:0:1]", HTTP));
        assert!(!is_allowed("127.0.0.1", "[::ffff:127.0.0.1]", HTTP));
        assert!(!is_allowed("localhost", "127.0.0.1", HTTP));
    }

    #[test]
    fn what_is_no_host_is_said() {
        use InvalidHttpHost::*;
        for (text, expected) in [
            ("", Empty),
            (":80", Empty),
            ("https://example.com", Url),
            ("example.com/v1", Url),
            ("me@example.com", User),
            ("*", Wildcard),
            ("a.*.com", Wildcard),
            ("*.*.com", Wildcard),
            ("*example.com", Wildcard),
            ("*.127.0.0.1", WildcardAddress),
            ("*.[::1]", WildcardAddress),
            ("a.org:", Port),
            ("a.org:0", Port),
            ("a.org:+80", Port),
            ("a.org:65536", Port),
            ("a.org:http", Port),
            ("::1", V6),
            ("[::1", V6),
            ("[::1]80", V6),
            ("[example]", V6),
            ("127.1", V4),
            ("2130706433", V4),
            ("0x7f000001", V4),
            ("127.0.0.1.", Length),
            ("a..org", Length),
            ("a.org.", Length),
            (".org", Length),
            ("bücher.de", Character),
            ("a b", Character),
            ("a%2eorg", Character),
        ] {
            assert_eq!(text.parse::<HttpHostPattern>(), Err(expected), "{text}");
        }
        assert_eq!("a".repeat(64).parse::<HttpHost>(), Err(Length));
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic_and_what_is_read_is_written_the_same(text in ".{0,40}") {
            if let Ok(pattern) = text.parse::<HttpHostPattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
            }
        }

        #[test]
        fn what_is_written_is_read(
            is_below: bool,
            name in "[a-z0-9_-]{1,9}(\\.[a-z][a-z0-9-]{0,9}){1,3}",
            port in prop::option::of(1u16..),
        ) {
            let host = HttpHost::Name(name);
            let pattern = HttpHostPattern { is_below, authority: HttpAuthority { host, port } };
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
    }
}
