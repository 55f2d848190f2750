//! Writes tar archives byte by byte, so that hostile ones can be written too.

/// One member of an archive, free to lie.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    size: Option<u64>,
    body: Vec<u8>,
    pax: Vec<(String, Vec<u8>)>,
}

impl Member {
    fn new(kind: u8, path: impl AsRef<[u8]>, mode: u32) -> Self {
        Self {
            kind,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            mode,
            owner: (0, 0),
            mtime: 1_700_000_000,
            size: None,
            body: Vec::new(),
            pax: Vec::new(),
        }
    }

    pub(crate) fn of_kind(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self::new(kind, path, 0o644)
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), ..Self::new(b'0', path, 0o644) }
    }

    pub(crate) fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', path, 0o755)
    }

    pub(crate) fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(b'2', path, 0o777) }
    }

    pub(crate) fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(b'1', path, 0o644) }
    }

    pub(crate) fn body(self, body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), ..self }
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Self {
        Self { owner: (uid, gid), ..self }
    }

    pub(crate) fn mtime(self, mtime: u64) -> Self {
        Self { mtime, ..self }
    }

    /// Claims another size than the body has.
    pub(crate) fn size(self, size: u64) -> Self {
        Self { size: Some(size), ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        if !self.pax.is_empty() {
            let body: Vec<u8> = self.pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            Self { body, ..Self::new(b'x', "pax", 0o644) }.write(out);
        }
        for (kind, name) in [(b'L', &self.path), (b'K', &self.link)] {
            if name.len() > 100 {
                let body = [name, &b"\0"[..]].concat();
                Self { body, ..Self::new(kind, "././@LongLink", 0o644) }.write(out);
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.mtime);
        header.set_size(self.size.unwrap_or(self.body.len() as u64));
        let bytes = header.as_mut_bytes();
        bytes[156] = self.kind;
        for (at, name) in [(0, &self.path), (157, &self.link)] {
            let length = name.len().min(100);
            bytes[at..at + length].copy_from_slice(&name[..length]);
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length =
        (1..8).map(|digits| rest + digits).find(|total| total.to_string().len() + rest == *total).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// An archive of these members, with its end.
pub(crate) fn tar_of(members: &[Member]) -> Vec<u8> {
    let mut out = unfinished_tar_of(members);
    out.extend([0; 1024]);
    out
}

/// The same without its end.
pub(crate) fn unfinished_tar_of(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        member.write(&mut out);
    }
    out
}
