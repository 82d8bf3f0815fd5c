//! The codecs of Kafka's record batches: gzip, snappy in xerial's framing, lz4 frames, zstd.
//!
//! Compression reuses its tables between batches ([`Compressor`]); decompression takes a bound on
//! its output and stops there, so that a few bytes from outside cannot fill the memory.

mod gzip;
mod lz4;
mod snappy;
mod zstd;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why compressing or decompressing failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The compressed bytes are not what the codec writes.
    #[error("malformed {codec} data: {reason}")]
    Malformed {
        /// The codec the data claims to be of.
        codec: Compression,
        /// What the codec found.
        reason: String,
    },
    /// The data decompresses to more than the caller allows.
    #[error("{codec} data decompresses to more than {limit_bytes} bytes")]
    TooLarge {
        /// The codec.
        codec: Compression,
        /// The caller's bound.
        limit_bytes: usize,
    },
    /// The codec failed to compress: out of memory, in practice.
    #[error("{codec} compression failed: {reason}")]
    Compress {
        /// The codec.
        codec: Compression,
        /// What the codec answered.
        reason: String,
    },
    /// No codec has this name.
    #[error("`{0}` is not a compression: use none, gzip, snappy, lz4 or zstd")]
    UnknownName(String),
}

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// gzip (deflate): small and slow; for clients that have nothing else.
    Gzip = 1,
    /// snappy: fast, compresses little.
    Snappy = 2,
    /// lz4: fast, compresses little.
    Lz4 = 3,
    /// zstd: compresses well at a moderate price.
    Zstd = 4,
}

impl Compression {
    /// All codecs, by ascending code.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The code in the batch's attributes, 0 to 4.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The codec of a code in the batch's attributes; `None` when there is none.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name, as in manifests and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|codec| codec.as_str() == name);
        known.ok_or_else(|| Error::UnknownName(name.to_owned()))
    }
}

impl Serialize for Compression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(de::Error::custom)
    }
}

/// Compresses one batch after the other, keeping the codec's tables in between.
#[derive(Default)]
pub struct Compressor {
    codec: Codec,
}

#[derive(Default)]
enum Codec {
    #[default]
    None,
    Gzip(Box<gzip::Encoder>),
    Snappy(Box<snappy::Encoder>),
    Lz4(Box<lz4::Encoder>),
    Zstd(Box<zstd::Encoder>),
}

impl Compressor {
    /// A compressor for `compression`.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let codec = match compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip(Box::default()),
            Compression::Snappy => Codec::Snappy(Box::default()),
            Compression::Lz4 => Codec::Lz4(Box::default()),
            Compression::Zstd => Codec::Zstd(Box::default()),
        };
        Self { codec }
    }

    /// The codec.
    #[must_use]
    pub fn compression(&self) -> Compression {
        match self.codec {
            Codec::None => Compression::None,
            Codec::Gzip(_) => Compression::Gzip,
            Codec::Snappy(_) => Compression::Snappy,
            Codec::Lz4(_) => Compression::Lz4,
            Codec::Zstd(_) => Compression::Zstd,
        }
    }

    /// Compresses `raw` and replaces the content of `out` with the result.
    ///
    /// # Errors
    /// [`Error::Compress`] when the codec fails; `out` is then undefined.
    pub fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        out.clear();
        match &mut self.codec {
            Codec::None => {
                out.extend_from_slice(raw);
                Ok(())
            }
            Codec::Gzip(encoder) => encoder.compress(raw, out),
            Codec::Snappy(encoder) => encoder.compress(raw, out),
            Codec::Lz4(encoder) => encoder.compress(raw, out),
            Codec::Zstd(encoder) => encoder.compress(raw, out),
        }
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compressor")
            .field(&self.compression())
            .finish()
    }
}

/// Decompresses `compressed`, which may become `limit_bytes` long at most.
///
/// # Errors
/// [`Error::Malformed`] for what the codec cannot read to its end, [`Error::TooLarge`] when the
/// output exceeds the limit; never more memory than the limit is touched.
pub fn decompress(
    compression: Compression,
    compressed: &[u8],
    limit_bytes: usize,
) -> Result<Vec<u8>, Error> {
    match compression {
        Compression::None if compressed.len() > limit_bytes => Err(Error::TooLarge {
            codec: Compression::None,
            limit_bytes,
        }),
        Compression::None => Ok(compressed.to_vec()),
        Compression::Gzip => gzip::decompress(compressed, limit_bytes),
        Compression::Snappy => snappy::decompress(compressed, limit_bytes),
        Compression::Lz4 => lz4::decompress(compressed, limit_bytes),
        Compression::Zstd => zstd::decompress(compressed, limit_bytes),
    }
}

#[cfg(test)]
mod tests;
