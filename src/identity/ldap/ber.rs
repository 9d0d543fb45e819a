//! The part of BER (X.690) that LDAP uses (RFC 4511 section 5.1), written and read.
//!
//! Reading is led by what must come, never by what is there: there is no recursion that a server could drive deep, and
//! no length is believed before the bytes are there.

/// SEQUENCE.
pub(super) const SEQUENCE: u8 = 0x30;
/// SET.
pub(super) const SET: u8 = 0x31;
/// OCTET STRING.
pub(super) const OCTETS: u8 = 0x04;
/// INTEGER.
pub(super) const INTEGER: u8 = 0x02;
/// ENUMERATED.
pub(super) const ENUMERATED: u8 = 0x0a;
/// BOOLEAN.
pub(super) const BOOLEAN: u8 = 0x01;

/// Octets of a length in its long form.
const LENGTH_OCTETS_MAX: usize = 4;

/// The bytes are not what the protocol has here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The length of the element that `bytes` begin with, head included; `None` while its head is not complete.
pub(super) fn element_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((head, content)) = head(bytes)? else { return Ok(None) };
    head.checked_add(content).map(Some).ok_or(Malformed)
}

/// The lengths of an element's head and of its content.
fn head(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let [_, first, rest @ ..] = bytes else { return Ok(None) };
    if *first < 0x80 {
        return Ok(Some((2, usize::from(*first))));
    }
    // 0x80 is the indefinite form, which LDAP does not have.
    let octets = usize::from(*first & 0x7f);
    if octets == 0 || octets > LENGTH_OCTETS_MAX {
        return Err(Malformed);
    }
    let Some(octet_list) = rest.get(..octets) else { return Ok(None) };
    let content = octet_list.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
    Ok(Some((2 + octets, content)))
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    pub(super) fn tag(self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<&'b [u8], Malformed> {
        if self.tag() != Some(tag) {
            return Err(Malformed);
        }
        let (head, content) = head(self.0)?.ok_or(Malformed)?;
        let end = head.checked_add(content).ok_or(Malformed)?;
        let taken = self.0.get(head..end).ok_or(Malformed)?;
        self.0 = self.0.get(end..).unwrap_or_default();
        Ok(taken)
    }

    /// The elements within the next element.
    pub(super) fn enter(&mut self, tag: u8) -> Result<Self, Malformed> {
        self.take(tag).map(Self)
    }

    /// A whole number that is not negative and has at most 31 bits (RFC 4511 section 4.1.1).
    pub(super) fn number(&mut self, tag: u8) -> Result<u32, Malformed> {
        let octets = self.take(tag)?;
        match octets.first() {
            Some(first) if *first < 0x80 && octets.len() <= 4 => {
                Ok(octets.iter().fold(0, |number, octet| number << 8 | u32::from(*octet)))
            }
            Some(_) | None => Err(Malformed),
        }
    }

    /// A text in UTF-8.
    pub(super) fn text(&mut self) -> Result<&'b str, Malformed> {
        str::from_utf8(self.take(OCTETS)?).map_err(|_| Malformed)
    }
}

/// Writes elements one after the other.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn put(&mut self, tag: u8, content: &[u8]) {
        self.head(tag, content.len());
        self.0.extend_from_slice(content);
    }

    pub(super) fn number(&mut self, tag: u8, number: u32) {
        let octets = number.to_be_bytes();
        // A first octet with its high bit set would be a negative number.
        let skipped = octets.windows(2).take_while(|pair| matches!(pair, [0, 0x00..0x80])).count();
        match octets.first() {
            Some(0x80..) => self.put(tag, &[&[0], &octets[..]].concat()),
            Some(_) | None => self.put(tag, octets.get(skipped..).unwrap_or_default()),
        }
    }

    pub(super) fn boolean(&mut self, tag: u8, value: bool) {
        self.put(tag, &[if value { 0xff } else { 0 }]);
    }

    /// An element of what `content` writes.
    pub(super) fn nest(&mut self, tag: u8, content: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        content(&mut inner);
        self.put(tag, &inner.0);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, tag: u8, length: usize) {
        self.0.push(tag);
        if let Ok(short @ 0..0x80) = u8::try_from(length) {
            self.0.push(short);
        } else {
            let octets = length.to_be_bytes();
            let skipped = octets.iter().take_while(|octet| **octet == 0).count();
            let octets = octets.get(skipped..).unwrap_or_default();
            self.0.push(0x80 | u8::try_from(octets.len()).unwrap_or(0x7f));
            self.0.extend_from_slice(octets);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_have_a_short_and_a_long_form() {
        assert_eq!(element_length(&[0x30]), Ok(None));
        assert_eq!(element_length(&[0x30, 5]), Ok(Some(7)));
        assert_eq!(element_length(&[0x30, 0x82, 1]), Ok(None));
        assert_eq!(element_length(&[0x30, 0x82, 1, 0]), Ok(Some(260)));
        assert_eq!(element_length(&[0x30, 0x84, 0, 0, 0, 1]), Ok(Some(7)));
        assert_eq!(element_length(&[0x30, 0x84, 0x7f, 0xff, 0xff, 0xff]), Ok(Some(0x7fff_ffff + 6)));
        assert_eq!(element_length(&[0x30, 0x80]), Err(Malformed));
        assert_eq!(element_length(&[0x30, 0x90]), Err(Malformed));
        assert_eq!(element_length(&[0x30, 0xff]), Err(Malformed));
    }

    #[track_caller]
    fn check_number(octets: &[u8], want: Result<u32, Malformed>) {
        let mut bytes = vec![INTEGER, u8::try_from(octets.len()).unwrap()];
        bytes.extend(octets);
        assert_eq!(Reader::new(&bytes).number(INTEGER), want);
    }

    #[test]
    fn numbers_are_small_and_not_negative() {
        check_number(&[0], Ok(0));
        check_number(&[0x7f, 0xff, 0xff, 0xff], Ok(0x7fff_ffff));
        check_number(&[0, 49], Ok(49));
        check_number(&[], Err(Malformed));
        check_number(&[0x80], Err(Malformed));
        check_number(&[0, 0, 0, 0, 1], Err(Malformed));
    }

    #[test]
    fn an_element_must_have_its_tag_and_its_bytes() {
        assert_eq!(Reader::new(&[OCTETS, 2, b'a']).text(), Err(Malformed));
        assert_eq!(Reader::new(&[OCTETS, 1, 0xff]).text(), Err(Malformed));
        assert_eq!(Reader::new(&[SEQUENCE, 0]).text(), Err(Malformed));
        assert_eq!(Reader::new(&[]).take(OCTETS), Err(Malformed));
        assert_eq!(Reader::new(&[OCTETS]).take(OCTETS), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in 0_u32..0x8000_0000, content in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut writer = Writer::default();
            writer.nest(SEQUENCE, |inner| {
                inner.number(INTEGER, number);
                inner.put(OCTETS, &content);
            });
            let bytes = writer.into_bytes();
            prop_assert_eq!(element_length(&bytes), Ok(Some(bytes.len())));
            let mut inner = Reader::new(&bytes).enter(SEQUENCE).unwrap();
            prop_assert_eq!(inner.number(INTEGER), Ok(number));
            prop_assert_eq!(inner.take(OCTETS), Ok(&content[..]));
            prop_assert!(inner.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), tag in any::<u8>()) {
            let _length = element_length(&bytes);
            let mut reader = Reader::new(&bytes);
            while reader.take(tag).is_ok() {}
            let _number = Reader::new(&bytes).number(tag);
        }
    }
}
