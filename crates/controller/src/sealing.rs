//! Sealing of secrets: ChaCha20-Poly1305 under one key, which lies in a file of its own beside the database.
//!
//! ```text
//!  base64( nonce, 12 random bytes ▏ ciphertext ▏ tag, 16 bytes )     bound to the store's key of the secret
//! ```
//! *Guarantees*: whoever has the database without the key file has no secret; a sealed value that was changed, or put
//! under another name, does not open. The key is made when the first secret is, and never while others need a lost one.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

/// Name of the key file in the directory of the database.
pub const KEY_FILE: &str = "secrets.key";
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Rights of others than its owner, of which the key file has none.
const OTHERS: u32 = 0o077;

/// A secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There is no key file, but there are secrets.
    #[error(
        "the key file {path} is gone, and the secrets in the store cannot be opened without it; restore it from a backup, or delete every secret and create them anew"
    )]
    KeyLost {
        /// Where it should be.
        path: PathBuf,
    },
    /// The key file is not as it should be.
    #[error("the key file {path} {fault}")]
    KeyUnfit {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The key file could not be read or written.
    #[error("read or write the key file {path}")]
    KeyFile {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was sealed by another key, or was changed.
    #[error(
        "it was sealed by another key than that of {path}, or was changed since; restore the key file, or replace the secret"
    )]
    Foreign {
        /// Where the key is.
        path: PathBuf,
    },
    /// There is no randomness to be had.
    #[error("get random bytes from the kernel")]
    Random,
}

/// Seals and opens secrets. Clones share the key.
#[derive(Clone)]
pub struct Sealer(Arc<Inner>);

struct Inner {
    path: PathBuf,
    key: OnceLock<LessSafeKey>,
}

impl Sealer {
    /// With the key in this file. It is looked for when it is needed first: most clusters have no secrets.
    #[must_use]
    pub fn in_file(path: PathBuf) -> Self {
        Self(Arc::new(Inner { path, key: OnceLock::new() }))
    }

    /// With a key of no file, for stores that do not outlive the process.
    #[must_use]
    pub fn in_memory() -> Self {
        let key = OnceLock::from(loaded([7; KEY_BYTES]));
        Self(Arc::new(Inner { path: PathBuf::from("memory"), key }))
    }

    /// Seals `plain` for the place `element`. `first` says whether there is no secret yet, so that a key may be made.
    ///
    /// # Errors
    /// The key is lost or unfit.
    pub fn seal(&self, element: &str, plain: &[u8], first: bool) -> Result<String, SealError> {
        let key = self.key(first)?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::Random)?;
        let mut sealed = plain.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(element.as_bytes()),
            &mut sealed,
        )
        .map_err(|_| SealError::Random)?;
        Ok(BASE64_STANDARD.encode([&nonce[..], &sealed].concat()))
    }

    /// Opens what was sealed for the place `element`.
    ///
    /// # Errors
    /// The key is lost, unfit or another one, or the value was changed.
    pub fn open(&self, element: &str, sealed: &str) -> Result<Vec<u8>, SealError> {
        let key = self.key(false)?;
        let foreign = || SealError::Foreign { path: self.0.path.clone() };
        let bytes = BASE64_STANDARD.decode(sealed).map_err(|_| foreign())?;
        let (nonce, rest) = bytes.split_at_checked(NONCE_LEN).ok_or_else(foreign)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| foreign())?;
        let mut rest = rest.to_vec();
        let plain =
            key.open_in_place(nonce, Aad::from(element.as_bytes()), &mut rest).map_err(|_| foreign())?;
        Ok(plain.to_vec())
    }

    fn key(&self, may_make: bool) -> Result<&LessSafeKey, SealError> {
        if let Some(key) = self.0.key.get() {
            return Ok(key);
        }
        let path = &self.0.path;
        let failed = |source| SealError::KeyFile { path: path.clone(), source };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_make => make(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SealError::KeyLost { path: path.clone() });
            }
            Err(error) => return Err(failed(error)),
        };
        let unfit = |fault| SealError::KeyUnfit { path: path.clone(), fault };
        if fs::metadata(path).map_err(failed)?.mode() & OTHERS != 0 {
            return Err(unfit("is open to other users; `chmod 600` closes it"));
        }
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes)
            .map_err(|_| unfit("has not the 32 bytes of a key; restore it from a backup"))?;
        Ok(self.0.key.get_or_init(|| loaded(bytes)))
    }
}

fn loaded(bytes: [u8; KEY_BYTES]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes);
    LessSafeKey::new(key.expect("a key of 32 bytes is what this cipher takes"))
}

/// Makes a key that is on the disk before anything is sealed by it.
fn make(path: &Path) -> Result<Vec<u8>, SealError> {
    let mut bytes = vec![0; KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::Random)?;
    let write = || {
        let temporary = path.with_extension("new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| SealError::KeyFile { path: path.to_owned(), source })?;
    tracing::info!(path = %path.display(), "made the key that seals secrets; keep a copy of it, apart from the database's");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn sealed_value_opens_at_its_place_alone_and_only_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KEY_FILE);
        let sealer = Sealer::in_file(path.clone());
        let sealed = sealer.seal("/secret/a", b"hunter2", true).unwrap();
        assert_ne!(sealed, sealer.seal("/secret/a", b"hunter2", false).unwrap(), "no nonce is used twice");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = Sealer::in_file(path.clone());
        assert_eq!(again.open("/secret/a", &sealed).unwrap(), b"hunter2");
        let mut changed = BASE64_STANDARD.decode(&sealed).unwrap();
        changed[NONCE_LEN] ^= 1;
        for (place, text) in [
            ("/secret/b", sealed.clone()),
            ("/secret/a", BASE64_STANDARD.encode(changed)),
            ("/secret/a", "AA".to_owned()),
        ] {
            assert!(matches!(again.open(place, &text), Err(SealError::Foreign { .. })), "{place} {text}");
        }
    }

    #[test]
    fn lost_or_open_key_is_told_of_and_no_other_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KEY_FILE);
        let lost = Sealer::in_file(path.clone()).seal("/secret/a", b"x", false);
        assert!(matches!(lost, Err(SealError::KeyLost { .. })) && !path.exists());
        Sealer::in_file(path.clone()).seal("/secret/a", b"x", true).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let open = Sealer::in_file(path).seal("/secret/a", b"x", false);
        assert!(matches!(open, Err(SealError::KeyUnfit { .. })));
    }
}
