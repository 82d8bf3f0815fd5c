//! Round trips, bounds, and foreign framings of the codecs.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use proptest::prelude::*;

use super::*;

const CODECS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

fn compress(codec: Compression, raw: &[u8]) -> Vec<u8> {
    let mut out = b"left over".to_vec();
    Compressor::new(codec).compress(raw, &mut out).unwrap();
    out
}

/// Text that compresses, longer than one block of any framing used here.
fn sample(len: usize) -> Vec<u8> {
    let lines = (0u64..).flat_map(|i| format!("event {} of {}\n", i, i * i).into_bytes());
    lines.take(len).collect()
}

#[test]
fn names_and_codes() {
    for codec in Compression::ALL {
        assert_eq!(Compression::from_code(codec.code()), Some(codec));
        assert_eq!(codec.as_str().parse(), Ok(codec));
        let json = serde_json::to_string(&codec).unwrap();
        assert_eq!(serde_json::from_str::<Compression>(&json).unwrap(), codec);
    }
    assert_eq!(Compression::from_code(5), None);
    assert_eq!(
        "brotli".parse::<Compression>().unwrap_err().to_string(),
        "`brotli` is not a compression: use none, gzip, snappy, lz4 or zstd"
    );
}

#[test]
fn round_trips_around_block_boundaries() {
    for codec in Compression::ALL {
        let mut compressor = Compressor::new(codec);
        let mut out = Vec::new();
        let kib = 1024;
        for len in [
            0,
            1,
            100,
            32 * kib,
            32 * kib + 1,
            64 * kib,
            64 * kib + 1,
            300 * kib,
        ] {
            let raw = sample(len);
            compressor.compress(&raw, &mut out).unwrap();
            assert_eq!(decompress(codec, &out, len).unwrap(), raw, "{codec} {len}");
        }
    }
}

#[test]
fn output_is_bounded() {
    for codec in Compression::ALL {
        let bomb = compress(codec, &vec![0; 4 << 20]);
        for limit_bytes in [0, 1, 1000, (4 << 20) - 1] {
            assert_eq!(
                decompress(codec, &bomb, limit_bytes),
                Err(Error::TooLarge { codec, limit_bytes }),
            );
        }
        assert_eq!(decompress(codec, &bomb, 4 << 20).unwrap().len(), 4 << 20);
    }
}

#[test]
fn truncation_is_an_error() {
    for codec in CODECS {
        let compressed = compress(codec, &sample(10_000));
        for len in 1..compressed.len() {
            let result = decompress(codec, &compressed[..len], 1 << 20);
            // A snappy stream has no end mark: it may end behind its header.
            let empty_stream = codec == Compression::Snappy && len == 16;
            assert!(result.is_err() || empty_stream, "{codec} {len}");
        }
    }
}

#[test]
fn raw_snappy_is_read() {
    for len in [1, 6, 5000, 100_000] {
        let raw = sample(len);
        let compressed = snap::raw::Encoder::new().compress_vec(&raw).unwrap();
        assert_eq!(
            decompress(Compression::Snappy, &compressed, 1 << 20).unwrap(),
            raw
        );
    }
    // Vector of the kafka-protocol crate: snappy without framing.
    let record = decompress(Compression::Snappy, b"\r0\x18\0\0\0\x01\x0csdfdsf\0", 100).unwrap();
    assert_eq!(record, b"\x18\0\0\0\x01\x0csdfdsf\0");
}

#[test]
fn snappy_framing_is_that_of_java() {
    // As written by snappy-java through Kafka's producer (vector of the kafka-protocol crate).
    let framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x0f\r0\x18\0\0\0\x01\x0csdfdsf\0";
    let record = b"\x18\0\0\0\x01\x0csdfdsf\0";
    assert_eq!(compress(Compression::Snappy, record), framed);
    let twice = [&framed[..], framed].concat();
    assert_eq!(
        decompress(Compression::Snappy, &twice, 100).unwrap(),
        [&record[..], record].concat()
    );
}

#[test]
fn snappy_claims_are_checked_before_memory_is_set_aside() {
    // Says 16 MiB, holds nothing.
    let claim = [0x80, 0x80, 0x80, 0x08, 0x00];
    let error = decompress(Compression::Snappy, &claim, 64 << 20).unwrap_err();
    assert!(
        error.to_string().contains("longer than it can be"),
        "{error}"
    );
}

#[test]
fn every_kind_of_lz4_frame_is_read() {
    let raw = sample(700_000);
    for block_size in [
        BlockSize::Max64KB,
        BlockSize::Max256KB,
        BlockSize::Max1MB,
        BlockSize::Max4MB,
    ] {
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for checksums in [false, true] {
                let info = FrameInfo::new()
                    .block_size(block_size)
                    .block_mode(mode)
                    .block_checksums(checksums)
                    .content_checksum(checksums);
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(&raw).unwrap();
                let frame = encoder.finish().unwrap();
                assert_eq!(
                    decompress(Compression::Lz4, &frame, raw.len()).unwrap(),
                    raw
                );
                let error = decompress(Compression::Lz4, &frame, raw.len() - 1).unwrap_err();
                assert!(matches!(error, Error::TooLarge { .. }), "{error}");
                for len in (0..frame.len()).step_by(997) {
                    assert!(decompress(Compression::Lz4, &frame[..len], raw.len()).is_err());
                }
            }
        }
    }
}

#[test]
fn plain_lz4_headers_carry_the_right_checksum() {
    for block_size in [
        BlockSize::Max64KB,
        BlockSize::Max256KB,
        BlockSize::Max1MB,
        BlockSize::Max4MB,
    ] {
        let info = FrameInfo::new()
            .block_size(block_size)
            .block_mode(BlockMode::Independent);
        let frame = FrameEncoder::with_frame_info(info, Vec::new()).finish();
        let mut frame = frame.unwrap();
        assert!(lz4::is_plain(&frame), "{frame:x?}");
        frame[6] ^= 1;
        assert!(!lz4::is_plain(&frame));
        assert!(decompress(Compression::Lz4, &frame, 100).is_err());
    }
}

#[test]
fn concatenated_gzip_members_are_read() {
    let both = [
        compress(Compression::Gzip, b"one"),
        compress(Compression::Gzip, b"two"),
    ]
    .concat();
    assert_eq!(
        decompress(Compression::Gzip, &both, 100).unwrap(),
        b"onetwo"
    );
}

#[test]
fn zstd_streams_without_a_size_are_read() {
    let raw = sample(500_000);
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&raw).unwrap();
    let stream = encoder.finish().unwrap();
    assert!(matches!(
        ::zstd::zstd_safe::get_frame_content_size(&stream),
        Ok(None)
    ));
    assert_eq!(
        decompress(Compression::Zstd, &stream, raw.len()).unwrap(),
        raw
    );
    let limit_bytes = raw.len() - 1;
    let error = Error::TooLarge {
        codec: Compression::Zstd,
        limit_bytes,
    };
    assert_eq!(
        decompress(Compression::Zstd, &stream, limit_bytes),
        Err(error)
    );
    let twice = [stream.clone(), stream].concat();
    assert_eq!(
        decompress(Compression::Zstd, &twice, 1 << 20)
            .unwrap()
            .len(),
        1_000_000
    );
}

/// Bytes of which some compress and some do not.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let run = (any::<u8>(), 0usize..5000).prop_map(|(byte, len)| vec![byte; len]);
    let noise = prop::collection::vec(any::<u8>(), 0..3000);
    prop::collection::vec(prop_oneof![run, noise], 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trips(raw in content()) {
        for codec in Compression::ALL {
            let compressed = compress(codec, &raw);
            prop_assert_eq!(&decompress(codec, &compressed, raw.len()).unwrap(), &raw);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, limit in 0usize..10_000) {
        for codec in CODECS {
            if let Ok(out) = decompress(codec, &bytes, limit) {
                prop_assert!(out.len() <= limit);
            }
        }
    }

    #[test]
    fn damaged_data_never_panics(raw in content(), at: prop::sample::Index, bit in 0u8..8) {
        for codec in CODECS {
            let mut compressed = compress(codec, &raw);
            let at = at.index(compressed.len());
            compressed[at] ^= 1 << bit;
            if let Ok(out) = decompress(codec, &compressed, 200_000) {
                prop_assert!(out.len() <= 200_000);
            }
        }
    }
}
