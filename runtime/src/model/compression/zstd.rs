//! zstd frames. Java clients write them as a stream, without the content's size, so decompression
//! grows its output as it goes; a known size makes it one allocation and one pass.

use std::cell::RefCell;

use zstd::{
    bulk,
    zstd_safe::{
        self, DCtx, InBuffer, OutBuffer, ResetDirective, compress_bound, get_error_name,
        get_frame_content_size,
    },
};

use super::{Compression, Error};

/// Level 1: on event data it keeps most of the ratio of Kafka's default of 3 and costs the writer
/// about half.
const LEVEL: i32 = 1;

/// A decompression context above this size had to deal with an unusually large window, and is not
/// kept for the next batch.
const KEPT_CONTEXT_BYTES: usize = 1 << 20;

/// First guess at how much larger than its compressed form a batch is.
const EXPECTED_EXPANSION: usize = 4;

thread_local! {
    /// Setting up a context costs more than decompressing a small batch.
    static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

#[derive(Default)]
pub(super) struct Encoder {
    context: Option<bulk::Compressor<'static>>,
}

impl Encoder {
    pub(super) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::Compress {
            codec: Compression::Zstd,
            reason: error.to_string(),
        };
        if self.context.is_none() {
            self.context = Some(bulk::Compressor::new(LEVEL).map_err(failed)?);
        }
        if let Some(context) = &mut self.context {
            out.reserve(compress_bound(raw.len()));
            context.compress_to_buffer(raw, out).map_err(failed)?;
        }
        Ok(())
    }
}

pub(super) fn decompress(compressed: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Error> {
    CONTEXT.with_borrow_mut(|kept| {
        let mut context = match kept.take() {
            Some(context) => context,
            None => DCtx::try_create().ok_or_else(|| malformed("out of memory"))?,
        };
        context.reset(ResetDirective::SessionOnly).map_err(code)?;
        let result = decompress_with(&mut context, compressed, limit_bytes);
        if context.sizeof() <= KEPT_CONTEXT_BYTES {
            *kept = Some(context);
        }
        result
    })
}

fn decompress_with(
    context: &mut DCtx<'_>,
    compressed: &[u8],
    limit_bytes: usize,
) -> Result<Vec<u8>, Error> {
    let guess = match get_frame_content_size(compressed) {
        Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
        _ => compressed.len().saturating_mul(EXPECTED_EXPANSION),
    };
    // Reserving touches no memory: a false claim costs address space only.
    let mut out: Vec<u8> = Vec::with_capacity(guess.min(limit_bytes).max(64));
    let mut input = InBuffer::around(compressed);
    loop {
        let (consumed, written) = (input.pos(), out.len());
        let mut output = OutBuffer::around_pos(&mut out, written);
        let hint = context
            .decompress_stream(&mut output, &mut input)
            .map_err(code)?;
        if out.len() > limit_bytes {
            return Err(Error::TooLarge {
                codec: Compression::Zstd,
                limit_bytes,
            });
        }
        // A hint of 0 is the end of a frame; more input is another frame.
        if hint == 0 && input.pos() == compressed.len() {
            return Ok(out);
        }
        if out.len() == out.capacity() {
            // One byte past the limit is enough to find out that the limit is exceeded.
            let grown = out
                .capacity()
                .saturating_mul(2)
                .min(limit_bytes.saturating_add(1));
            out.reserve_exact(grown.saturating_sub(out.len()).max(1));
        } else if input.pos() == consumed && out.len() == written {
            return Err(malformed("truncated frame"));
        }
    }
}

fn code(code: zstd_safe::ErrorCode) -> Error {
    malformed(get_error_name(code))
}

fn malformed(reason: &str) -> Error {
    Error::Malformed {
        codec: Compression::Zstd,
        reason: reason.to_owned(),
    }
}
