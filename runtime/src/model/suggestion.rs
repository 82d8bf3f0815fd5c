//! The known name that somebody most likely meant.

/// The longest text that a similar one is looked for, in bytes: the time grows with the product of
/// the two lengths.
const MAX_BYTES: usize = 256;

/// The candidate that `found` is most likely a mistyped form of, if any is near enough.
pub fn suggest<'c>(found: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if found.len() > MAX_BYTES {
        return None;
    }
    let normal = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let found = normal(found);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= MAX_BYTES)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&found, &normal(candidate));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            let longer = candidate.len().max(found.len());
            *distance <= (longer / 3).max(1) && *distance < longer
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near() {
        let keys = ["partitions", "retention", "retention-bytes"];
        assert_eq!(suggest("partition", keys), Some("partitions"));
        assert_eq!(suggest("retention_bytes", keys), Some("retention-bytes"));
        assert_eq!(suggest("Retention", keys), Some("retention"));
        assert_eq!(suggest("replicas", keys), None);
        assert_eq!(suggest("x", ["to"]), None);
        assert_eq!(suggest("a", ["b"]), None);
        assert_eq!(suggest(&"x".repeat(10_000), keys), None);
        assert_eq!(suggest("x", [&*"x".repeat(10_000)]), None);
    }
}
