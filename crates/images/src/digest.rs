//! Content digests: the name of a blob is the SHA-256 of its bytes.
//!
//! Only `sha256` is spoken: every registry in use offers it, and one algorithm means one directory layout.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The SHA-256 of some bytes, written `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error("digest {text:?} has no algorithm; write sha256: and 64 hex digits")]
    NoAlgorithm {
        /// What was given.
        text: String,
    },
    /// The algorithm is not SHA-256.
    #[error("digest algorithm {algorithm:?} is not supported; use sha256")]
    Algorithm {
        /// What stands before the colon.
        algorithm: String,
    },
    /// Not exactly 64 lower-case hex digits.
    #[error("a sha256 digest has 64 lower-case hex digits; {hex:?} has not")]
    Hex {
        /// What stands behind the colon.
        hex: String,
    },
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 64 hex digits alone: the name of a file that holds the bytes.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text
    }

    /// Reads 64 hex digits without an algorithm in front.
    pub(crate) fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let fault = || DigestError::Hex { hex: hex.chars().take(80).collect() };
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(fault());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| fault())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::NoAlgorithm { text: text.chars().take(80).collect() });
        };
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm { algorithm: algorithm.chars().take(80).collect() });
        }
        Self::from_hex(hex)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Counts and hashes bytes as they pass.
#[derive(Default)]
pub(crate) struct Hasher {
    sha256: sha2::Sha256,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, chunk: &[u8]) {
        self.sha256.update(chunk);
        self.bytes += chunk.len() as u64;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.sha256.finalize().into())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        self.update(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_print_and_parse() {
        let digest = Digest::of(b"hello");
        assert_eq!(
            digest.to_string(),
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn a_malformed_digest_says_what_is_wrong() {
        let cases = [
            ("2cf2", "has no algorithm"),
            ("md5:2cf2", "\"md5\" is not supported"),
            ("sha512:2cf2", "\"sha512\" is not supported"),
            ("sha256:2cf2", "64 lower-case hex digits"),
            ("sha256:2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824", "lower-case"),
            ("sha256:zzf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "hex"),
            ("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b98240", "64"),
        ];
        for (text, reason) in cases {
            let fault = text.parse::<Digest>().expect_err(text).to_string();
            assert!(fault.contains(reason), "{text}: {fault}");
        }
    }
}
