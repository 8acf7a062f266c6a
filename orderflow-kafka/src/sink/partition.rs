//! The partition of a record, computed as the Java client does, so that records of one key meet whoever wrote them.
//!
//! Invariant: a record's partition depends on the record, its place and the topic's number of partitions alone, never on load
//! or time: what is written again after a crash goes where it went before.

/// Murmur2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut h = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition that Kafka's Java client gives a record with this key, out of `partitions` > 0.
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions.max(1)
}

/// The partition of a record without a key: runs of neighbours stay together, so that they travel in one batch.
pub(crate) fn partition_for_place(place: u64, partitions: i32) -> i32 {
    const RUN: u64 = 1024;
    (place / RUN % partitions.max(1).unsigned_abs() as u64) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_the_java_clients() {
        // from org.apache.kafka.common.utils.UtilsTest
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key) as i32, hash, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn a_negative_hash_gives_a_partition_as_in_java() {
        // toPositive masks the sign bit, it does not negate
        assert_eq!(partition_for_key(b"foobar", 7), (-790_332_482i32 & 0x7fff_ffff) % 7);
        assert_eq!(partition_for_key(b"foobar", 1), 0);
    }

    #[test]
    fn neighbours_without_a_key_stay_together_and_all_partitions_are_used() {
        let used: std::collections::BTreeSet<_> = (0..5000).map(|i| partition_for_place(i, 4)).collect();
        assert_eq!(used.len(), 4);
        assert_eq!(partition_for_place(0, 4), partition_for_place(1023, 4));
    }
}
