//! Columns that a guest hands over to an import.

use bytes::Bytes;

use super::HostFault;

/// Most keys of one call of an import: as many as a batch may write.
pub const MAX_KEYS_PER_CALL: usize = 262_144;

/// The slices of a column from a guest, whose number and ends are checked.
pub(super) fn split(
    interface: &str,
    name: &str,
    bytes: Vec<u8>,
    ends: &[u32],
) -> wasmtime::Result<Vec<Bytes>> {
    if ends.len() > MAX_KEYS_PER_CALL {
        return Err(HostFault::argument(format!(
            "it called `{interface}` with {} {name}s, at most {MAX_KEYS_PER_CALL} are allowed in one call",
            ends.len()
        )));
    }
    let bytes = Bytes::from(bytes);
    let mut slices = Vec::with_capacity(ends.len());
    let mut start = 0;
    for &end in ends {
        let end = end as usize;
        if end < start || end > bytes.len() {
            return Err(HostFault::argument(format!(
                "it called `{interface}` with `{name}-ends` that do not ascend within `{name}s`"
            )));
        }
        slices.push(bytes.slice(start..end));
        start = end;
    }
    if start != bytes.len() {
        return Err(HostFault::argument(format!(
            "it called `{interface}` with `{name}-ends` that end at {start}, but `{name}s` has {} bytes",
            bytes.len()
        )));
    }
    Ok(slices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_from_a_guest_are_checked() {
        let too_many = vec![0; MAX_KEYS_PER_CALL + 1];
        let error = split("state", "key", Vec::new(), &too_many).unwrap_err();
        assert!(error.to_string().contains("at most 262144"), "{error}");
        assert!(split("state", "key", Vec::new(), &too_many[1..]).is_ok());

        let ok = split("state", "key", b"abc".to_vec(), &[1, 1, 3]).unwrap();
        assert_eq!(ok, [Bytes::from("a"), Bytes::new(), Bytes::from("bc")]);
        for ends in [&[2, 1, 3][..], &[4], &[1], &[]] {
            assert!(
                split("state", "key", b"abc".to_vec(), ends).is_err(),
                "{ends:?}"
            );
        }
        assert!(split("state", "key", Vec::new(), &[]).unwrap().is_empty());
    }
}
