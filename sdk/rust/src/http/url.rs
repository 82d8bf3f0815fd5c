//! The parts of a URL.

/// A URL that is called.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) is_https: bool,
    /// Host and port.
    pub(super) authority: &'a str,
    /// Path and query; begins with a slash.
    pub(super) path: String,
}

impl<'a> Url<'a> {
    /// Takes a URL apart. What its parts hold is for the host to check.
    pub(super) fn parse(text: &'a str) -> Result<Self, &'static str> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("it does not begin with http:// or https://")?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("it does not begin with http:// or https://"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let path_start = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_start);
        if authority.is_empty() {
            return Err("it names no host");
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            is_https,
            authority,
            path: format!("{slash}{path}"),
        })
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.is_https { "https" } else { "http" }
    }
}

/// Encodes a text for one part of a URL's path or query: all but letters, digits, `-`, `.`, `_` and `~`
/// becomes `%XX`, so that nothing in it can end the part.
pub fn encode(text: impl AsRef<[u8]>) -> String {
    let mut encoded = String::new();
    for byte in text.as_ref() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(*byte));
            }
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                encoded.push('%');
                encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
                encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_fall_into_their_parts() {
        let url = |text| Url::parse(text).map(|url| (url.is_https, url.authority, url.path));
        assert_eq!(url("https://a.org"), Ok((true, "a.org", "/".into())));
        assert_eq!(
            url("HTTP://a.org:80/x?y=/#z"),
            Ok((false, "a.org:80", "/x?y=/".into()))
        );
        assert_eq!(url("http://[::1]?x"), Ok((false, "[::1]", "/?x".into())));
        for text in ["a.org", "ftp://a.org", "http:///x", "http://#x", ""] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_ends_a_part() {
        assert_eq!(encode("a b/ü?#%"), "a%20b%2F%C3%BC%3F%23%25");
        assert_eq!(encode("A-z_0.~"), "A-z_0.~");
    }
}
