//! Numbers and strings of bytes in a recording: numbers are unsigned LEB128, a string of bytes is its
//! length and its bytes.

/// Appends to bytes.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Bytes, or none: the length and one, or 0.
    pub(super) fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            None => self.number(0),
            Some(bytes) => {
                self.number(bytes.len() as u64 + 1);
                self.0.extend_from_slice(bytes);
            }
        }
    }

    /// Numbers that ascend as a rule: each as what it is more than the one before.
    pub(super) fn ascending(&mut self, numbers: &[u64]) {
        self.number(numbers.len() as u64);
        let mut before = 0u64;
        for number in numbers {
            self.number(number.wrapping_sub(before));
            before = *number;
        }
    }
}

/// Takes off the front of bytes. Every function returns none where they end too soon, or say what cannot
/// be.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn number32(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    /// How many elements follow, each of at least a byte: more than there are bytes cannot be.
    pub(super) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?.try_into().ok()?;
        self.take(len)
    }

    pub(super) fn optional(&mut self) -> Option<Option<&'a [u8]>> {
        match self.number()?.checked_sub(1) {
            None => Some(None),
            Some(len) => Some(Some(self.take(len.try_into().ok()?)?)),
        }
    }

    pub(super) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn ascending(&mut self) -> Option<Vec<u64>> {
        let mut before = 0u64;
        (0..self.count()?)
            .map(|_| {
                before = before.wrapping_add(self.number()?);
                Some(before)
            })
            .collect()
    }
}
