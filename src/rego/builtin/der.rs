//! The few forms of ASN.1 DER that keys and signatures are made of.

/// Tags that are read or written here.
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_ID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// Reads values one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The body of the next value, if it has this tag.
    pub(super) fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, body, rest) = split(self.0)?;
        if found != tag {
            return None;
        }
        self.0 = rest;
        Some(body)
    }

    /// The digits of the next value, a positive integer, without leading zeros.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        let body = self.next(INTEGER)?;
        let is_negative = body.first().is_none_or(|first| *first >= 0x80);
        (!is_negative).then(|| without_zeros(body))
    }

    /// What is inside the next value, a sequence.
    pub(super) fn sequence(&mut self) -> Option<Self> {
        self.next(SEQUENCE).map(Reader)
    }
}

/// Tag, body and what follows.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        // Four bytes are more than any text given to a built-in.
        let length = (1..=4)
            .contains(&digits.len())
            .then(|| digits.iter().fold(0_usize, |length, digit| (length << 8) | usize::from(*digit)))?;
        (length, rest)
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((*tag, body, rest))
}

/// The digits of a number, big-endian.
pub(super) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// An ECDSA signature as `r` and `s` of equal length (RFC 7518, section 3.4), written as a sequence
/// of two integers.
pub(super) fn signature_of(pair: &[u8]) -> Vec<u8> {
    let (r, s) = pair.split_at(pair.len() / 2);
    tagged(SEQUENCE, &[integer(r), integer(s)].concat())
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let digits = without_zeros(bytes);
    let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    tagged(INTEGER, &[sign, digits].concat())
}

fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len().to_be_bytes();
    let length = without_zeros(&length);
    let mut out = vec![tag];
    if body.len() >= 0x80 {
        // A length has at most eight bytes.
        out.push(0x80 | u8::try_from(length.len()).unwrap_or(8));
    }
    out.extend(if body.is_empty() { &[0] } else { length });
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_become_canonical_sequences() {
        assert_eq!(signature_of(&[1, 2]), [0x30, 6, 2, 1, 1, 2, 1, 2]);
        assert_eq!(signature_of(&[0, 0x80, 0, 0]), [0x30, 7, 2, 2, 0, 0x80, 2, 1, 0]);
        assert_eq!(signature_of(&[]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        let long = signature_of(&[0x7f; 400]);
        assert_eq!(long[..8], [0x30, 0x82, 1, 0x96, 2, 0x81, 200, 0x7f]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(pair in prop::collection::vec(any::<u8>(), 0..300)) {
            let written = signature_of(&pair);
            let mut sequence = Reader(&written).sequence().unwrap();
            let (r, s) = pair.split_at(pair.len() / 2);
            prop_assert_eq!(sequence.integer(), Some(without_zeros(r)));
            prop_assert_eq!(sequence.integer(), Some(without_zeros(s)));
            prop_assert!(sequence.0.is_empty());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut reader = Reader(&bytes);
            while reader.next(SEQUENCE).is_some() {}
        }
    }
}
