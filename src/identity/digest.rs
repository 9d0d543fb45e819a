//! SHA-256, the one hash by which credentials and key sets are known.

use aws_lc_rs::digest;

/// A SHA-256.
pub(super) type Sha256 = [u8; 32];

/// Hashes bytes.
pub(super) fn sha256(bytes: &[u8]) -> Sha256 {
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(digest::digest(&digest::SHA256, bytes).as_ref()) {
        *to = *from;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hex::hex;

    #[test]
    fn the_hash_of_nothing_is_well_known() {
        let want = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&sha256(b"")), want);
    }
}
