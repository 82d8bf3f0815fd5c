//! Variable-length integers of the batch format: zigzag, then base 128, least significant group
//! first, as in Protocol Buffers.
//!
//! Nearly all of them take one or two bytes, so those cases are inlined and the loop is not.

/// Maps small magnitudes of either sign to small numbers.
#[inline(always)]
pub(super) const fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Undoes [`zigzag`].
#[inline(always)]
pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// How many bytes `value` takes, 1 to 10.
#[inline(always)]
pub(super) const fn encoded_len(value: u64) -> usize {
    // ceil(bits / 7) without a division: exact for 1 to 64 bits.
    let bits = 64 - (value | 1).leading_zeros();
    ((bits * 9 + 64) >> 6) as usize
}

/// Takes a varint off the front of `rest`; `None` when it is truncated or does not fit 64 bits.
#[inline(always)]
pub(super) fn read_u64(rest: &mut &[u8]) -> Option<u64> {
    let (&first, tail) = rest.split_first()?;
    if first < 0x80 {
        *rest = tail;
        return Some(u64::from(first));
    }
    let (&second, tail) = tail.split_first()?;
    if second < 0x80 {
        *rest = tail;
        return Some(u64::from(first & 0x7f) | u64::from(second) << 7);
    }
    read_long(rest)
}

#[cold]
#[inline(never)]
fn read_long(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, &byte) in rest.iter().enumerate().take(10) {
        let group = u64::from(byte & 0x7f);
        let shift = 7 * i as u32;
        // The tenth group has one bit of room.
        if shift == 63 && group > 1 {
            return None;
        }
        value |= group << shift;
        if byte < 0x80 {
            *rest = rest.get(i + 1..)?;
            return Some(value);
        }
    }
    None
}

/// Takes a signed 64-bit number off the front of `rest`.
#[inline(always)]
pub(super) fn read_i64(rest: &mut &[u8]) -> Option<i64> {
    read_u64(rest).map(unzigzag)
}

/// Takes a signed 32-bit number off the front of `rest`.
#[inline(always)]
pub(super) fn read_i32(rest: &mut &[u8]) -> Option<i32> {
    read_u64(rest).and_then(|value| i32::try_from(unzigzag(value)).ok())
}

/// Writes into a slice of exactly the right length, which the caller has computed with
/// [`encoded_len`].
pub(super) struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    #[inline(always)]
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self { rest: out }
    }

    #[inline(always)]
    fn take(&mut self, len: usize) -> &'a mut [u8] {
        let (front, rest) = std::mem::take(&mut self.rest).split_at_mut(len);
        self.rest = rest;
        front
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, byte: u8) {
        self.take(1)[0] = byte;
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, value: u64) {
        if value < 0x80 {
            self.byte(value as u8);
        } else if value < 0x4000 {
            let out = self.take(2);
            out[0] = value as u8 | 0x80;
            out[1] = (value >> 7) as u8;
        } else {
            self.long(value);
        }
    }

    #[cold]
    fn long(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(value: u64) -> Vec<u8> {
        let mut out = vec![0; encoded_len(value)];
        let mut writer = Writer::new(&mut out);
        writer.varint(value);
        assert!(writer.rest.is_empty());
        out
    }

    #[test]
    fn known_encodings() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (8191, &[0xfe, 0x7f]),
            (8192, &[0x80, 0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            (
                i64::MAX,
                &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            ),
            (
                i64::MIN,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            ),
        ] {
            assert_eq!(write(zigzag(value)), bytes, "{value}");
            assert_eq!(read_i64(&mut &*bytes), Some(value));
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for bytes in [&[][..], &[0x80], &[0x80; 9], &[0xff; 10], &[0xff; 20]] {
            assert_eq!(read_u64(&mut &*bytes), None, "{bytes:x?}");
        }
        let mut eleven = vec![0x80; 10];
        eleven.push(0);
        assert_eq!(read_u64(&mut &*eleven), None);
        let too_big_for_32 = write(zigzag(i64::from(i32::MAX) + 1));
        assert_eq!(read_i32(&mut &*too_big_for_32), None);
    }

    #[test]
    fn length_is_exact_at_every_power_of_two() {
        for bits in 0..64u32 {
            for value in [1u64 << bits, (1u64 << bits) - 1, u64::MAX >> bits] {
                let expected = (64 - (value | 1).leading_zeros()).div_ceil(7) as usize;
                assert_eq!(encoded_len(value), expected, "{value}");
            }
        }
    }

    proptest! {
        #[test]
        fn round_trips(value: i64, tail: Vec<u8>) {
            let mut bytes = write(zigzag(value));
            bytes.extend_from_slice(&tail);
            let mut rest = &*bytes;
            prop_assert_eq!(read_i64(&mut rest), Some(value));
            prop_assert_eq!(rest, &*tail);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let mut rest = &*bytes;
            while read_u64(&mut rest).is_some() {}
            prop_assert!(rest.len() <= bytes.len());
        }
    }
}
