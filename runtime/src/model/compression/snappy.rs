//! snappy in the framing of xerial's `snappy-java`, which Kafka's Java clients write: a 16-byte
//! header, then blocks of a big-endian length and raw snappy. Other clients (librdkafka among
//! them) write one raw block without framing; both are read, the framing is written.

use snap::raw;

use super::{Compression, Error};

/// Magic, then version 1 and compatible version 1.
const HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// The first eight bytes of the header; the versions after them are not checked on read.
const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";

/// The block size of `snappy-java`.
const BLOCK_BYTES: usize = 32 * 1024;

/// Snappy's densest element is a copy of 64 bytes in 3. A block that claims to expand more is
/// malformed, and is refused before memory is set aside for its claim.
const MAX_EXPANSION: usize = 64;

pub(super) struct Encoder {
    raw: raw::Encoder,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            raw: raw::Encoder::new(),
        }
    }
}

impl Encoder {
    pub(super) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(&HEADER);
        for block in raw.chunks(BLOCK_BYTES) {
            let length_at = out.len();
            let block_at = length_at + 4;
            out.resize(block_at + raw::max_compress_len(block.len()), 0);
            let len = self
                .raw
                .compress(block, &mut out[block_at..])
                .map_err(|error| Error::Compress {
                    codec: Compression::Snappy,
                    reason: error.to_string(),
                })?;
            // A block of 32 KiB is far below 4 GiB, compressed or not.
            out[length_at..block_at].copy_from_slice(&(len as u32).to_be_bytes());
            out.truncate(block_at + len);
        }
        Ok(())
    }
}

pub(super) fn decompress(compressed: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut decoder = raw::Decoder::new();
    let mut out = Vec::new();
    if !compressed.starts_with(&MAGIC) {
        append_block(&mut decoder, compressed, &mut out, limit_bytes)?;
        return Ok(out);
    }
    let mut rest = compressed
        .get(HEADER.len()..)
        .ok_or_else(|| malformed("truncated header"))?;
    while !rest.is_empty() {
        // Streams may be concatenated: a header can stand where a block is expected.
        if rest.starts_with(&MAGIC) {
            rest = rest
                .get(HEADER.len()..)
                .ok_or_else(|| malformed("truncated header"))?;
            continue;
        }
        let (length, tail) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed("truncated block length"))?;
        let length = usize::try_from(u32::from_be_bytes(*length))
            .map_err(|_| malformed("block length out of range"))?;
        let (block, tail) = tail
            .split_at_checked(length)
            .ok_or_else(|| malformed("truncated block"))?;
        append_block(&mut decoder, block, &mut out, limit_bytes)?;
        rest = tail;
    }
    Ok(out)
}

/// Decompresses one raw block behind what `out` has.
fn append_block(
    decoder: &mut raw::Decoder,
    block: &[u8],
    out: &mut Vec<u8>,
    limit_bytes: usize,
) -> Result<(), Error> {
    let start = out.len();
    let len = raw::decompress_len(block).map_err(|error| malformed(&error.to_string()))?;
    if len > limit_bytes.saturating_sub(start) {
        return Err(Error::TooLarge {
            codec: Compression::Snappy,
            limit_bytes,
        });
    }
    if len > block.len().saturating_mul(MAX_EXPANSION) {
        return Err(malformed("block claims to be longer than it can be"));
    }
    out.resize(start + len, 0);
    let written = decoder
        .decompress(block, &mut out[start..])
        .map_err(|error| malformed(&error.to_string()))?;
    out.truncate(start + written);
    Ok(())
}

fn malformed(reason: &str) -> Error {
    Error::Malformed {
        codec: Compression::Snappy,
        reason: reason.to_owned(),
    }
}
