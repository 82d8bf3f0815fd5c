//! gzip: deflate between a 10-byte header and a trailer of CRC-32 and length (RFC 1952).
//!
//! The framing is written here rather than by `flate2::write::GzEncoder`, since that allocates its
//! 300 KB of tables anew for every batch.

use std::io::Read;

use flate2::{Compress, Crc, FlushCompress, Status, bufread::MultiGzDecoder};

use super::{Compression, Error};

/// Magic, method deflate, no flags, no time, no extra flags, unknown operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

pub(super) struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            deflate: Compress::new(flate2::Compression::default(), false),
        }
    }
}

impl Encoder {
    pub(super) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.deflate.reset();
        out.extend_from_slice(&HEADER);
        let mut rest = raw;
        loop {
            // `compress_vec` fills the spare capacity and no more.
            out.reserve(rest.len() / 2 + 64);
            let consumed_before = self.deflate.total_in();
            let status = self
                .deflate
                .compress_vec(rest, out, FlushCompress::Finish)
                .map_err(|error| failed(&error))?;
            let consumed = usize::try_from(self.deflate.total_in() - consumed_before);
            rest = consumed
                .ok()
                .and_then(|n| rest.get(n..))
                .unwrap_or_default();
            if status == Status::StreamEnd {
                break;
            }
        }
        let mut crc = Crc::new();
        crc.update(raw);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend_from_slice(&crc.amount().to_le_bytes());
        Ok(())
    }
}

fn failed(error: &impl ToString) -> Error {
    Error::Compress {
        codec: Compression::Gzip,
        reason: error.to_string(),
    }
}

/// Reads one gzip member or several in a row, as Java's `GZIPInputStream` does.
pub(super) fn decompress(compressed: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(compressed.len().saturating_mul(4).min(limit_bytes));
    let mut decoder = MultiGzDecoder::new(compressed).take(limit_bytes as u64 + 1);
    decoder
        .read_to_end(&mut out)
        .map_err(|error| Error::Malformed {
            codec: Compression::Gzip,
            reason: error.to_string(),
        })?;
    if out.len() > limit_bytes {
        return Err(Error::TooLarge {
            codec: Compression::Gzip,
            limit_bytes,
        });
    }
    Ok(out)
}
