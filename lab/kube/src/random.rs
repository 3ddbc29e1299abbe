//! Random names and uids. Only uniqueness matters here, so the standard library's seeded hasher is enough.

use std::hash::{BuildHasher, Hasher, RandomState};

fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A version 4 UUID.
pub(crate) fn uid() -> String {
    let high = number() & 0xffff_ffff_ffff_0fff | 0x4000;
    let low = number() & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The alphabet of generated names: no vowels, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The five characters that `generateName` appends.
pub(crate) fn suffix() -> String {
    encode(number(), 5)
}

/// `length` letters of the safe alphabet from a number.
pub(crate) fn encode(mut number: u64, length: usize) -> String {
    let base = ALPHABET.len() as u64;
    (0..length)
        .map(|_| {
            let index = (number % base) as usize;
            number /= base;
            char::from(ALPHABET[index])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_have_the_form_of_version_four_and_differ() {
        let (a, b) = (uid(), uid());
        assert_ne!(a, b);
        let parts: Vec<usize> = a.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(&a[14..15], "4");
        assert!("89ab".contains(&a[19..20]));
    }
}
