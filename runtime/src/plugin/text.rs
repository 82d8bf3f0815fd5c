//! Text from guests.

/// Most bytes of text from a guest that is kept as a reason.
pub(super) const MAX_REASON_BYTES: usize = 1024;

/// Cuts text from a guest to `max_bytes`, at a character boundary.
pub(super) fn cut(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_keeps_characters_whole() {
        assert_eq!(cut("abc".into(), 3), "abc");
        assert_eq!(cut("aé".into(), 2), "a…");
        assert_eq!(cut("aéb".into(), 3), "aé…");
    }
}
