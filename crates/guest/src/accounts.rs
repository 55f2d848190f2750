//! Who a user of an image is: its `/etc/passwd` and `/etc/group`, read as every container engine reads them. Pure.

use serde::{Deserialize, Serialize};

/// Largest user or group id: the kernel's own limit for most purposes, and far from the wrap at 2^32.
pub const MAX_ID: u32 = i32::MAX as u32;
/// Most groups that one user is in: the kernel's limit.
const MAX_GROUPS: usize = 65_536;
/// Most that is worth reading of `/etc/passwd` or `/etc/group`, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Who runs a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All groups, the first one included.
    pub groups: Vec<u32>,
}

/// Why there is no such user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The image's user does not exist in it.
    #[error("user {user:?} of the image is not in its /etc/passwd")]
    UnknownUser {
        /// As written in the image's configuration.
        user: String,
    },
    /// The image's group does not exist in it.
    #[error("group {group:?} of the image is not in its /etc/group")]
    UnknownGroup {
        /// As written in the image's configuration.
        group: String,
    },
    /// A number that is no id.
    #[error("{id:?} of the image is not an id from 0 to {MAX_ID}")]
    IdOutOfRange {
        /// As written.
        id: String,
    },
}

/// Finds out who `user` (as an image writes it: `name`, `uid`, `name:group`, `uid:gid`, or nothing) is, by the texts of
/// `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// There is no such user or group, or a number is out of range.
pub fn resolve(passwd: &str, groups: &str, user: &str) -> Result<Account, AccountError> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = parse_id(name)?;
    let entry = passwd.lines().map(fields).find(|entry| match number {
        Some(number) => entry.get(2).and_then(|id| id.parse().ok()) == Some(number),
        None => entry.first() == Some(&name),
    });
    let uid = match (&entry, number) {
        (_, Some(number)) => number,
        (Some(entry), None) => own_id(entry.get(2).copied().unwrap_or_default())?,
        (None, None) => return Err(AccountError::UnknownUser { user: name.to_owned() }),
    };
    if let Some(group) = group {
        let gid = resolve_group(groups, group)?;
        return Ok(Account { uid, gid, groups: vec![gid] });
    }
    let gid = match &entry {
        Some(entry) => own_id(entry.get(3).copied().unwrap_or_default())?,
        None => 0,
    };
    let known_as = entry.as_ref().and_then(|entry| entry.first().copied()).unwrap_or_default();
    Ok(Account { uid, gid, groups: groups_of(groups, known_as, gid) })
}

/// The home that `/etc/passwd` has for a user.
#[must_use]
pub fn home(passwd: &str, uid: u32) -> Option<&str> {
    let entry =
        passwd.lines().map(fields).find(|entry| entry.get(2).and_then(|id| id.parse().ok()) == Some(uid))?;
    entry.get(5).copied().filter(|home| !home.is_empty())
}

fn resolve_group(groups: &str, group: &str) -> Result<u32, AccountError> {
    if let Some(number) = parse_id(group)? {
        return Ok(number);
    }
    let entry = groups.lines().map(fields).find(|entry| entry.first() == Some(&group));
    let entry = entry.ok_or_else(|| AccountError::UnknownGroup { group: group.to_owned() })?;
    own_id(entry.get(2).copied().unwrap_or_default())
}

/// The user's own group and all that list it: without the own one, a file that denies its group would let it in.
fn groups_of(groups: &str, name: &str, own: u32) -> Vec<u32> {
    let member = |entry: &Vec<&str>| {
        !name.is_empty() && entry.get(3).is_some_and(|members| members.split(',').any(|one| one == name))
    };
    let listed = groups.lines().map(fields).filter(member).filter_map(|entry| own_id(entry.get(2)?).ok());
    let mut ids: Vec<u32> = listed.chain([own]).take(MAX_GROUPS).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn fields(line: &str) -> Vec<&str> {
    line.trim().split(':').collect()
}

/// The number, if it is written as one. Never wraps: what does not fit is refused.
fn parse_id(text: &str) -> Result<Option<u32>, AccountError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    own_id(text).map(Some)
}

fn own_id(text: &str) -> Result<u32, AccountError> {
    let id = text.parse().ok().filter(|id| *id <= MAX_ID);
    id.ok_or_else(|| AccountError::IdOutOfRange { id: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/false\nbroken\nhuge:x:4294967296:0:::\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:200:web,other\nstaff:x:50:web\n";

    #[test]
    fn user_is_found_in_every_form_that_images_use() {
        let account = |user: &str| resolve(PASSWD, GROUP, user).unwrap();
        let user = |uid, gid, groups: &[u32]| Account { uid, gid, groups: groups.to_vec() };
        assert_eq!(account(""), user(0, 0, &[0]));
        assert_eq!(account("web"), user(101, 102, &[50, 102, 200]));
        assert_eq!(account("101"), user(101, 102, &[50, 102, 200]));
        assert_eq!(account("web:logs"), user(101, 200, &[200]));
        assert_eq!(account("5000:6000"), user(5000, 6000, &[6000]));
        assert_eq!(account("5000"), user(5000, 0, &[0]));
        assert_eq!(home(PASSWD, 101), Some("/srv"));
        assert_eq!(home(PASSWD, 5000), None);
    }

    #[test]
    fn id_that_would_wrap_to_root_is_refused() {
        for user in ["4294967296", "huge", "-1", "2147483648", "0:4294967296", "99999999999999999999"] {
            let error = resolve(PASSWD, GROUP, user).unwrap_err();
            assert!(matches!(error, AccountError::IdOutOfRange { .. }), "{user}: {error}");
        }
        let unknown = resolve(PASSWD, GROUP, "nobody").unwrap_err();
        assert!(matches!(unknown, AccountError::UnknownUser { .. }));
        assert!(matches!(resolve(PASSWD, GROUP, "web:nope"), Err(AccountError::UnknownGroup { .. })));
    }
}
