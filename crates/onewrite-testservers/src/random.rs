//! Names and passwords that no other process draws.

use std::hash::{BuildHasher, Hasher, RandomState};

const PREFIX_CHARS_MAX: usize = 40;

/// A number from the system's randomness. The standard library's hasher is seeded with it.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A name for a database or a stream of one test: lower case letters, digits and underscores, at most
/// 57 bytes, different in every call of every process.
#[must_use]
pub fn unique(prefix: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() { char } else { '_' };
    let prefix: String = prefix.chars().take(PREFIX_CHARS_MAX).map(plain).collect();
    format!("{}_{:016x}", prefix.to_ascii_lowercase(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_short_and_never_the_same() {
        let (one, two) = (unique("Relay::née"), unique("Relay::née"));
        assert!(one.starts_with("relay__n_e_") && one != two, "{one} {two}");
        assert_eq!(unique(&"x".repeat(200)).len(), 57);
    }
}
