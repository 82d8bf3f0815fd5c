//! `wasi:http/types.fields`: headers.

use ureq::http::{HeaderMap, HeaderName, HeaderValue, header};
use wasmtime::component::Resource;

use super::{
    super::super::host::{HostFault, HostState},
    MAX_FIELDS_BYTES,
    bindings::wasi::http::types::{self, HeaderError},
};

/// What a header takes beside its name and value.
const FIELD_BYTES: usize = 32;

/// Headers.
#[derive(Debug, Default)]
pub struct Fields {
    map: HeaderMap,
    bytes: usize,
    /// They belong to a request or a response.
    is_immutable: bool,
}

impl Fields {
    /// The headers of a request or a response.
    pub(super) fn immutable(map: HeaderMap) -> Self {
        Self {
            bytes: size_bytes(&map),
            map,
            is_immutable: true,
        }
    }

    pub(super) fn into_map(self) -> HeaderMap {
        self.map
    }

    /// Checks that the headers may be changed, and that this is a name which a plugin may set.
    fn check_change(&self, name: &str) -> Result<HeaderName, HeaderError> {
        if self.is_immutable {
            return Err(HeaderError::Immutable);
        }
        let name: HeaderName = name.parse().map_err(|_| HeaderError::InvalidSyntax)?;
        if is_forbidden(&name) {
            return Err(HeaderError::Forbidden);
        }
        Ok(name)
    }

    /// Adds a header, whose name has been checked.
    fn append(
        &mut self,
        name: HeaderName,
        value: &[u8],
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        self.bytes += name.as_str().len() + value.len() + FIELD_BYTES;
        if self.bytes > MAX_FIELDS_BYTES {
            return Err(HostFault::argument(format!(
                "it put more than {MAX_FIELDS_BYTES} bytes of headers into one request"
            )));
        }
        let Ok(value) = HeaderValue::from_bytes(value) else {
            return Ok(Err(HeaderError::InvalidSyntax));
        };
        self.map.append(name, value);
        Ok(Ok(()))
    }
}

/// Headers that say how the connection is used, or whom the request is for: the client's own.
fn is_forbidden(name: &HeaderName) -> bool {
    const FORBIDDEN: [HeaderName; 8] = [
        header::CONNECTION,
        header::EXPECT,
        header::HOST,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    FORBIDDEN.contains(name)
        || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

fn size_bytes(map: &HeaderMap) -> usize {
    map.iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES)
        .sum()
}

impl types::HostFields for HostState {
    fn new(&mut self) -> wasmtime::Result<Resource<Fields>> {
        self.push_http(Fields::default())
    }

    fn from_list(
        &mut self,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<Resource<Fields>, HeaderError>> {
        let mut fields = Fields::default();
        for (name, value) in entries {
            let name = match fields.check_change(&name) {
                Ok(name) => name,
                Err(error) => return Ok(Err(error)),
            };
            if let Err(error) = fields.append(name, &value)? {
                return Ok(Err(error));
            }
        }
        self.push_http(fields).map(Ok)
    }

    fn get(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<Vec<Vec<u8>>> {
        let values = self.table.get(&fields)?.map.get_all(name.as_str());
        Ok(values
            .iter()
            .map(|value| value.as_bytes().to_vec())
            .collect())
    }

    fn has(&mut self, fields: Resource<Fields>, name: String) -> wasmtime::Result<bool> {
        Ok(self.table.get(&fields)?.map.contains_key(name.as_str()))
    }

    fn set(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        values: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let fields = self.table.get_mut(&fields)?;
        let name = match fields.check_change(&name) {
            Ok(name) => name,
            Err(error) => return Ok(Err(error)),
        };
        fields.map.remove(&name);
        fields.bytes = size_bytes(&fields.map);
        for value in values {
            if let Err(error) = fields.append(name.clone(), &value)? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn delete(
        &mut self,
        fields: Resource<Fields>,
        name: String,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        self.set(fields, name, Vec::new())
    }

    fn append(
        &mut self,
        fields: Resource<Fields>,
        name: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), HeaderError>> {
        let fields = self.table.get_mut(&fields)?;
        match fields.check_change(&name) {
            Ok(name) => fields.append(name, &value),
            Err(error) => Ok(Err(error)),
        }
    }

    fn entries(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Vec<(String, Vec<u8>)>> {
        let entry = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.as_str().to_owned(), value.as_bytes().to_vec())
        };
        Ok(self.table.get(&fields)?.map.iter().map(entry).collect())
    }

    fn clone(&mut self, fields: Resource<Fields>) -> wasmtime::Result<Resource<Fields>> {
        let fields = self.table.get(&fields)?;
        let copy = Fields {
            map: fields.map.clone(),
            bytes: fields.bytes,
            is_immutable: false,
        };
        self.push_http(copy)
    }

    fn drop(&mut self, fields: Resource<Fields>) -> wasmtime::Result<()> {
        self.take_http(fields).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(fields: &mut Fields, name: &str, value: &[u8]) -> Result<(), HeaderError> {
        let name = fields.check_change(name)?;
        fields.append(name, value).unwrap()
    }

    #[test]
    fn headers_of_the_connection_are_the_clients() {
        let mut fields = Fields::default();
        for name in [
            "Host",
            "connection",
            "Transfer-Encoding",
            "Keep-Alive",
            "Expect",
        ] {
            let refused = add(&mut fields, name, b"x");
            assert!(matches!(refused, Err(HeaderError::Forbidden)), "{name}");
        }
        assert!(add(&mut fields, "Authorization", b"x").is_ok());
    }

    #[test]
    fn no_value_ends_a_header() {
        let mut fields = Fields::default();
        for value in [&b"a\r\nhost: b"[..], b"a\nb", b"\0"] {
            let refused = add(&mut fields, "x", value);
            assert!(matches!(refused, Err(HeaderError::InvalidSyntax)));
        }
        let refused = add(&mut fields, "a b", b"x");
        assert!(matches!(refused, Err(HeaderError::InvalidSyntax)));
    }

    #[test]
    fn headers_are_bounded() {
        let mut fields = Fields::default();
        let name: HeaderName = "x".parse().unwrap();
        let added = (0..2_000).take_while(|_| fields.append(name.clone(), b"value").is_ok());
        assert_eq!(added.count(), MAX_FIELDS_BYTES / (1 + 5 + FIELD_BYTES));
    }

    #[test]
    fn headers_of_a_request_stay_as_they_are() {
        let mut fields = Fields::immutable(HeaderMap::new());
        let refused = add(&mut fields, "x", b"y");
        assert!(matches!(refused, Err(HeaderError::Immutable)));
    }
}
