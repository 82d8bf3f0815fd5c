//! lz4 frames with independent blocks of 64 KiB and no checksums, which is what Kafka's Java
//! clients write and require.
//!
//! Frames of that plain kind are written and read here, block by block into one buffer and with a
//! reused table; every other kind (linked blocks, checksums) goes through `lz4_flex`'s decoder.

use std::io::Read;

use lz4_flex::{
    block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size},
    frame::FrameDecoder,
};

use super::{Compression, Error};

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// Version 1, independent blocks, neither checksums nor content size nor dictionary.
const PLAIN_FLAGS: u8 = 0x60;

/// Block descriptor, its header checksum under [`PLAIN_FLAGS`], and the block size it stands for.
const PLAIN_DESCRIPTORS: [(u8, u8, usize); 4] = [
    (0x40, 0x82, 64 << 10),
    (0x50, 0xfb, 256 << 10),
    (0x60, 0x51, 1 << 20),
    (0x70, 0x73, 4 << 20),
];

const HEADER_BYTES: usize = 7;
const BLOCK_BYTES: usize = 64 << 10;

/// A block of length 0 ends the frame.
const END_MARK: [u8; 4] = [0; 4];

/// In a block's length: the block is stored as it is.
const STORED: u32 = 1 << 31;

#[derive(Default)]
pub(super) struct Encoder {
    table: CompressTable,
}

impl Encoder {
    pub(super) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (descriptor, checksum, _) = PLAIN_DESCRIPTORS[0];
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[PLAIN_FLAGS, descriptor, checksum]);
        for block in raw.chunks(BLOCK_BYTES) {
            let length_at = out.len();
            let block_at = length_at + 4;
            out.resize(block_at + get_maximum_output_size(block.len()), 0);
            let mut len = compress_into_with_table(block, &mut out[block_at..], &mut self.table)
                .map_err(|error| Error::Compress {
                    codec: Compression::Lz4,
                    reason: error.to_string(),
                })?;
            let mut length = len as u32;
            if len >= block.len() {
                len = block.len();
                length = len as u32 | STORED;
                out[block_at..block_at + len].copy_from_slice(block);
            }
            out[length_at..block_at].copy_from_slice(&length.to_le_bytes());
            out.truncate(block_at + len);
        }
        out.extend_from_slice(&END_MARK);
        Ok(())
    }
}

pub(super) fn decompress(compressed: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Error> {
    match plain_block_bytes(compressed) {
        Some(block_bytes) => decompress_plain(compressed, block_bytes, limit_bytes),
        None => decompress_any(compressed, limit_bytes),
    }
}

/// The block size of a plain frame, `None` for other frames (and for what is no frame).
fn plain_block_bytes(compressed: &[u8]) -> Option<usize> {
    let &[m0, m1, m2, m3, flags, descriptor, checksum] =
        compressed.first_chunk::<HEADER_BYTES>()?;
    if [m0, m1, m2, m3] != MAGIC || flags != PLAIN_FLAGS {
        return None;
    }
    PLAIN_DESCRIPTORS
        .into_iter()
        .find(|&(known, sum, _)| (known, sum) == (descriptor, checksum))
        .map(|(_, _, block_bytes)| block_bytes)
}

fn decompress_plain(
    compressed: &[u8],
    block_bytes: usize,
    limit_bytes: usize,
) -> Result<Vec<u8>, Error> {
    let too_large = || Error::TooLarge {
        codec: Compression::Lz4,
        limit_bytes,
    };
    let mut rest = compressed.get(HEADER_BYTES..).unwrap_or_default();
    let mut out = Vec::with_capacity(compressed.len().saturating_mul(3).min(limit_bytes));
    loop {
        let (length, tail) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed("truncated frame"))?;
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            // Java's reader stops at the end mark; whatever follows would be lost silently there.
            return if tail.is_empty() {
                Ok(out)
            } else {
                Err(malformed("data after the frame"))
            };
        }
        let stored = length & STORED != 0;
        let length = (length & !STORED) as usize;
        if length > block_bytes {
            return Err(malformed("block longer than the frame allows"));
        }
        let (block, tail) = tail
            .split_at_checked(length)
            .ok_or_else(|| malformed("truncated block"))?;
        rest = tail;

        let start = out.len();
        let room = limit_bytes.saturating_sub(start);
        if stored {
            if block.len() > room {
                return Err(too_large());
            }
            out.extend_from_slice(block);
            continue;
        }
        out.resize(start + block_bytes.min(room), 0);
        let len = match decompress_into(block, &mut out[start..]) {
            Ok(len) => len,
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < block_bytes => {
                return Err(too_large());
            }
            Err(error) => return Err(malformed(&error.to_string())),
        };
        out.truncate(start + len);
    }
}

/// Any kind of frame, and several in a row.
fn decompress_any(compressed: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Error> {
    // `lz4_flex` takes the end of its input for the end of the frame wherever that looks possible.
    // The end mark, or the checksum behind it, tells the difference.
    let (body, last) = compressed
        .split_last_chunk::<4>()
        .ok_or_else(|| malformed("truncated frame"))?;
    if *last != END_MARK && !body.ends_with(&END_MARK) {
        return Err(malformed("truncated frame"));
    }
    let mut out = Vec::new();
    let mut decoder = FrameDecoder::new(compressed);
    loop {
        let room = (limit_bytes - out.len()) as u64 + 1;
        decoder
            .by_ref()
            .take(room)
            .read_to_end(&mut out)
            .map_err(|error| malformed(&error.to_string()))?;
        if out.len() > limit_bytes {
            return Err(Error::TooLarge {
                codec: Compression::Lz4,
                limit_bytes,
            });
        }
        // The decoder reports the end of each frame. It consumes input with every call, so this
        // ends.
        if decoder.get_ref().is_empty() {
            return Ok(out);
        }
    }
}

fn malformed(reason: &str) -> Error {
    Error::Malformed {
        codec: Compression::Lz4,
        reason: reason.to_owned(),
    }
}

/// Whether the frame takes the fast path.
#[cfg(test)]
pub(super) fn is_plain(compressed: &[u8]) -> bool {
    plain_block_bytes(compressed).is_some()
}
