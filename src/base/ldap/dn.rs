//! Distinguished names (RFC 4514), as far as the gateway looks into them.

/// Longest name read.
pub const DN_BYTES_MAX: usize = 2048;

/// The attribute and value that an entry's name begins with: `cn`, `Sales, EU` of `cn=Sales\, EU,ou=groups`. `None` if
/// the text is no distinguished name, or names its entry by several attributes.
pub fn first(dn: &str) -> Option<(&str, String)> {
    let (attribute, rest) = dn.split_once('=')?;
    let attribute = attribute.trim();
    let (value, rest) = value(rest)?;
    (is_attribute(attribute) && !rest.starts_with('+')).then_some((attribute, value))
}

/// Whether `text` is a distinguished name that is not empty.
pub fn is_dn(text: &str) -> bool {
    let mut rest = text;
    if rest.len() > DN_BYTES_MAX {
        return false;
    }
    loop {
        let Some((attribute, after)) = rest.split_once('=') else { return false };
        let Some((_, after)) = value(after) else { return false };
        if !is_attribute(attribute.trim()) {
            return false;
        }
        match after.split_at_checked(1) {
            None => return true,
            Some((_, after)) => rest = after,
        }
    }
}

/// One spelling for names that differ in case and in spaces around their parts. It is for telling names apart, not for
/// a server.
pub fn folded(dn: &str) -> String {
    let mut folded = String::with_capacity(dn.len());
    let mut escaped = false;
    for letter in dn.trim().chars().flat_map(char::to_lowercase) {
        match letter {
            ' ' if !escaped && folded.ends_with([',', '=', '+', ' ']) => {}
            ',' | '=' | '+' if !escaped => {
                // A space that is escaped belongs to the value.
                while folded.ends_with(' ') && !folded.ends_with("\\ ") {
                    folded.pop();
                }
                folded.push(letter);
            }
            _ => folded.push(letter),
        }
        escaped = letter == '\\' && !escaped;
    }
    folded
}

/// A descriptor or a numeric object identifier (RFC 4512 section 1.4), options not included.
pub fn is_attribute(text: &str) -> bool {
    let is_descriptor = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    text.len() <= 128 && (is_descriptor || (text.contains('.') && text.split('.').all(is_number)))
}

/// The value that `text` begins with, and what follows it: nothing, or a text that begins with `,` or `+`.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches(' ');
    if let Some(encoded) = text.strip_prefix('#') {
        let end = encoded.find([',', '+']).unwrap_or(encoded.len());
        let (digits, rest) = encoded.split_at(end);
        let is_hex = !digits.trim().is_empty() && digits.trim().bytes().all(|byte| byte.is_ascii_hexdigit());
        return is_hex.then(|| (format!("#{}", digits.trim()), rest));
    }
    let mut bytes = Vec::new();
    let mut kept = 0;
    let mut rest = text;
    loop {
        let mut letters = rest.chars();
        match letters.next() {
            None | Some(',' | '+') => break,
            Some('\\') => {
                let (byte, after) = escaped(letters.as_str())?;
                bytes.extend(byte);
                kept = bytes.len();
                rest = after;
                continue;
            }
            Some('"' | ';' | '<' | '>' | '\0') => return None,
            Some(letter) => {
                bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                if letter != ' ' {
                    kept = bytes.len();
                }
            }
        }
        rest = letters.as_str();
    }
    bytes.truncate(kept);
    Some((String::from_utf8(bytes).ok()?, rest))
}

/// What a backslash before `text` stands for, and what follows.
fn escaped(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some((pair, rest)) = text.split_at_checked(2)
        && pair.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Some((vec![u8::from_str_radix(pair, 16).ok()?], rest));
    }
    let letter = text.chars().next().filter(|letter| " \"#+,;<=>\\".contains(*letter))?;
    Some((vec![u8::try_from(letter).ok()?], text.get(1..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(dn: &str, want: Option<(&str, &str)>) {
        let found = first(dn);
        assert_eq!(found.as_ref().map(|(attribute, value)| (*attribute, value.as_str())), want, "{dn}");
    }

    #[test]
    fn the_first_part_is_read_as_it_is_meant() {
        check("cn=staff,ou=groups,dc=example", Some(("cn", "staff")));
        check("CN = staff , ou=groups", Some(("CN", "staff")));
        check(r"cn=Sales\, EU,ou=groups", Some(("cn", "Sales, EU")));
        check(r#"cn=\"quoted\" \+ \#1,o=x"#, Some(("cn", "\"quoted\" + #1")));
        check(r"cn=\C3\A9quipe (a*b)\2c\20,o=x", Some(("cn", "équipe (a*b), ")));
        check("cn=équipe", Some(("cn", "équipe")));
        check(r"cn=\ lead\ ,o=x", Some(("cn", " lead ")));
        check("cn=#04024869,o=x", Some(("cn", "#04024869")));
        check("cn=a+sn=b,o=x", None);
        for wrong in
            ["", "staff", "cn", "=a", "c n=a", r"cn=a\", r"cn=a\z", "cn=a<b", r"cn=\ff,o=x", "cn=#zz"]
        {
            check(wrong, None);
        }
    }

    #[test]
    fn names_are_told_from_other_texts() {
        for good in ["dc=example", "cn=a+sn=b,o=x", r"uid=a\,b, ou=x", "2.5.4.3=x", "cn=,o=x"] {
            assert!(is_dn(good), "{good}");
        }
        for bad in ["", "example", "dc=example,", "dc=example,,o=x", ",dc=x", "(uid=x)", "dc=a\0", r"dc=a\"] {
            assert!(!is_dn(bad), "{bad}");
        }
    }

    #[test]
    fn spellings_of_one_name_fold_alike() {
        let want = folded(r"cn=sales\, eu,ou=groups");
        for spelling in [r"CN=Sales\, EU,OU=Groups", r" cn = sales\, eu , ou= groups "] {
            assert_eq!(folded(spelling), want);
        }
        assert_ne!(folded(r"cn=a\ ,o=x"), folded("cn=a,o=x"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,40}") {
            let read = first(&text).is_some();
            prop_assert!(!read || text.contains('='));
            folded(&text);
        }

        #[test]
        fn what_is_escaped_is_read_back(value in "[ -~é]{1,20}") {
            let escaped: Vec<_> = value.bytes().map(|byte| format!("\\{byte:02x}")).collect();
            let escaped = escaped.concat();
            let dn = format!("cn={escaped},o=x");
            prop_assert_eq!(first(&dn), Some(("cn", value)));
            prop_assert!(is_dn(&dn));
        }
    }
}
