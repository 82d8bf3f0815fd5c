//! Kafka's default partitioner for keyed records: 32-bit murmur2 of the key, sign bit cleared,
//! modulo the number of partitions. A key therefore lands in the same partition here as it does
//! when a Kafka client chooses.

/// The partition of `key` in a topic of `partitions` partitions.
///
/// `partitions` is at least 1; 0 is answered with partition 0.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff)
        .checked_rem(partitions)
        .unwrap_or(0)
}

/// A hash of a key that is the same on every machine and in every version.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    u64::from(murmur2(key)) << 32 | u64::from(crc32c::crc32c(key))
}

/// 32-bit murmur2 with the seed that Kafka's clients use.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    // The reference algorithm mixes in the length as a 32-bit number; keys are far shorter.
    let mut hash = SEED ^ (data.len() as u32);
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `testMurmur2` in Kafka's `UtilsTest`.
    const KAFKA_VECTORS: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
        ("abc", 479_470_107),
    ];

    #[test]
    fn agrees_with_kafka() {
        for (key, hash) in KAFKA_VECTORS {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
            let positive = u32::try_from(hash & 0x7fff_ffff).unwrap();
            assert_eq!(
                partition_for_key(key.as_bytes(), 12),
                positive % 12,
                "{key}"
            );
        }
    }

    #[test]
    fn is_total() {
        assert_eq!(partition_for_key(b"key", 0), 0);
        assert_eq!(partition_for_key(b"key", 1), 0);
        for len in 0..64 {
            assert!(partition_for_key(&vec![0xff; len], 7) < 7);
        }
    }
}
