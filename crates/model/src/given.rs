//! Configs and secrets: small sets of keys and values that instances are given. What an instance names, whether it is
//! all there, and what its variables and files are then. Pure.
//!
//! *Guarantee*: no value is shown by `Debug`, of a secret or of a config.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::manifest::{
    ContainerSpec, EnvVar, WorkloadSpec,
    given::{EnvFrom, EnvSource, KeyRef, ObjectVolume},
    image::LOGINS_KEY,
    volume::Volume,
};

/// Most bytes of one config or secret, keys and values together: what the peers allow, and it fits any message.
pub const MAX_OBJECT_BYTES: usize = 1 << 20;
/// Most bytes that one instance is given. With its specification it still fits a message between the parts.
pub const MAX_GIVEN_BYTES: usize = 2 << 20;

/// The two sorts of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Values that may be read back.
    Config,
    /// Values that are never read back.
    Secret,
}

impl ObjectKind {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Config, Self::Secret];

    /// As it is called.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// Keys and values of one object.
pub type Contents = BTreeMap<String, Vec<u8>>;

/// What names one object.
pub type ObjectId = (ObjectKind, String);

/// The objects that an instance is given.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Those that are there.
    pub objects: BTreeMap<ObjectId, Contents>,
    /// Why it cannot be given them, if it cannot.
    pub problem: Option<String>,
}

impl fmt::Debug for Given {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.objects.keys().collect();
        out.debug_struct("Given").field("objects", &names).field("problem", &self.problem).finish()
    }
}

impl Given {
    /// How many bytes its keys and values have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.objects.values().map(bytes).sum()
    }

    fn object(&self, kind: ObjectKind, name: &str) -> Option<&Contents> {
        self.objects.get(&(kind, name.to_owned()))
    }

    fn value(&self, kind: ObjectKind, wanted: &KeyRef) -> Option<&Vec<u8>> {
        self.object(kind, &wanted.name)?.get(&wanted.key)
    }

    /// Holds what is there against what the specification needs.
    ///
    /// # Errors
    /// The sentence says what is missing.
    pub fn check(&self, spec: &WorkloadSpec) -> Result<(), String> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        for container in spec.all_containers() {
            self.variables(container)?;
        }
        self.logins(spec)?;
        spec.volumes.iter().filter_map(of_volume).try_for_each(|(kind, own)| self.files(kind, own).map(drop))
    }

    /// The documents with logins of registries, and the names of their secrets.
    ///
    /// # Errors
    /// The sentence says what is missing.
    pub fn logins<'a>(&'a self, spec: &'a WorkloadSpec) -> Result<Vec<(&'a str, &'a [u8])>, String> {
        let each = spec.image_pull_secrets.iter().map(|own| {
            let Some(contents) = self.object(ObjectKind::Secret, &own.name) else {
                return Err(missing(ObjectKind::Secret, &own.name));
            };
            let document = contents.get(LOGINS_KEY);
            let document = document.ok_or_else(|| missing_key(ObjectKind::Secret, &own.name, LOGINS_KEY))?;
            Ok((own.name.as_str(), document.as_slice()))
        });
        each.collect()
    }

    /// The container's variables with their values: those of whole objects first, so that single ones win.
    ///
    /// # Errors
    /// The sentence says what is missing, or is no text.
    pub fn variables(&self, container: &ContainerSpec) -> Result<Vec<EnvVar>, String> {
        let mut all = Vec::new();
        for (kind, from, named) in container.env_from.iter().filter_map(of_env_from) {
            match self.object(kind, &named.name) {
                Some(contents) => {
                    for (key, value) in contents {
                        all.push(plain(
                            format!("{}{key}", from.prefix),
                            text(kind, &named.name, key, value)?,
                        ));
                    }
                }
                None if named.optional => {}
                None => return Err(missing(kind, &named.name)),
            }
        }
        for variable in &container.env {
            let Some((kind, wanted)) = variable.value_from.as_ref().and_then(of_env) else {
                all.push(variable.clone());
                continue;
            };
            match self.value(kind, wanted) {
                Some(value) => {
                    let value = text(kind, &wanted.name, &wanted.key, value)?;
                    all.push(plain(variable.name.clone(), value));
                }
                None if wanted.optional => {}
                None if self.object(kind, &wanted.name).is_none() => return Err(missing(kind, &wanted.name)),
                None => return Err(missing_key(kind, &wanted.name, &wanted.key)),
            }
        }
        Ok(all)
    }

    /// Paths and contents of the files of a volume.
    ///
    /// # Errors
    /// The sentence says what is missing.
    pub fn files<'a>(
        &'a self,
        kind: ObjectKind,
        volume: &'a ObjectVolume,
    ) -> Result<Vec<(&'a str, &'a [u8])>, String> {
        let Some(contents) = self.object(kind, &volume.name) else {
            return if volume.optional { Ok(Vec::new()) } else { Err(missing(kind, &volume.name)) };
        };
        if volume.items.is_empty() {
            return Ok(contents.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect());
        }
        let mut files = Vec::new();
        for item in &volume.items {
            match contents.get(&item.key) {
                Some(value) => files.push((item.path.as_str(), value.as_slice())),
                None if volume.optional => {}
                None => return Err(missing_key(kind, &volume.name, &item.key)),
            }
        }
        Ok(files)
    }
}

/// The objects that an instance of this specification names.
#[must_use]
pub fn named(spec: &WorkloadSpec) -> BTreeSet<ObjectId> {
    let variables = spec.all_containers().flat_map(|container| {
        let whole = container.env_from.iter().filter_map(of_env_from);
        let single = container.env.iter().filter_map(|variable| of_env(variable.value_from.as_ref()?));
        let whole = whole.map(|(kind, _, named)| (kind, named.name.clone()));
        whole.chain(single.map(|(kind, wanted)| (kind, wanted.name.clone())))
    });
    let volumes = spec.volumes.iter().filter_map(of_volume);
    let logins = spec.image_pull_secrets.iter().map(|own| (ObjectKind::Secret, own.name.clone()));
    variables.chain(volumes.map(|(kind, own)| (kind, own.name.clone()))).chain(logins).collect()
}

/// Whether a container's variables come from elsewhere.
#[must_use]
pub fn has_foreign_variables(container: &ContainerSpec) -> bool {
    !container.env_from.is_empty() || container.env.iter().any(|variable| variable.value_from.is_some())
}

/// Bytes of the keys and values of an object.
#[must_use]
pub fn bytes(contents: &Contents) -> usize {
    contents.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The object that a volume shows, if it shows one.
#[must_use]
pub fn of_volume(volume: &Volume) -> Option<(ObjectKind, &ObjectVolume)> {
    let config = volume.config.as_ref().map(|own| (ObjectKind::Config, own));
    config.or_else(|| volume.secret.as_ref().map(|own| (ObjectKind::Secret, own)))
}

fn of_env(source: &EnvSource) -> Option<(ObjectKind, &KeyRef)> {
    let config = source.config_key_ref.as_ref().map(|wanted| (ObjectKind::Config, wanted));
    config.or_else(|| source.secret_key_ref.as_ref().map(|wanted| (ObjectKind::Secret, wanted)))
}

fn of_env_from(from: &EnvFrom) -> Option<(ObjectKind, &EnvFrom, &crate::manifest::given::ObjectRef)> {
    let config = from.config_ref.as_ref().map(|named| (ObjectKind::Config, from, named));
    config.or_else(|| from.secret_ref.as_ref().map(|named| (ObjectKind::Secret, from, named)))
}

fn plain(name: String, value: String) -> EnvVar {
    EnvVar { name, value, value_from: None }
}

fn text(kind: ObjectKind, name: &str, key: &str, value: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'));
    text.map(str::to_owned)
        .ok_or_else(|| format!("key {key:?} of {kind} {name:?} is no text, and only text fits a variable"))
}

fn missing(kind: ObjectKind, name: &str) -> String {
    format!("there is no {kind} {name:?}; `rikctl create {kind} {name}` makes it")
}

fn missing_key(kind: ObjectKind, name: &str, key: &str) -> String {
    format!("{kind} {name:?} has no key {key:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> WorkloadSpec {
        serde_json::from_str(text).unwrap()
    }

    fn given() -> Given {
        let contents = |pairs: &[(&str, &[u8])]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect::<Contents>()
        };
        let objects = [
            ((ObjectKind::Config, "app".to_owned()), contents(&[("MODE", b"fast"), ("raw", b"\xff")])),
            ((ObjectKind::Secret, "db".to_owned()), contents(&[("password", b"hunter2")])),
        ];
        Given { objects: objects.into(), problem: None }
    }

    #[test]
    fn every_object_that_is_named_anywhere_is_needed() {
        let spec = spec(
            r#"{"containers":[{"name":"a","image":"a","env":[{"name":"P","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}}]}],
                "initContainers":[{"name":"b","image":"a","envFrom":[{"configRef":{"name":"app"}}]}],
                "volumes":[{"name":"v","secret":{"name":"tls"}}]}"#,
        );
        let names: Vec<String> =
            named(&spec).into_iter().map(|(kind, name)| format!("{kind}/{name}")).collect();
        assert_eq!(names, ["config/app", "secret/db", "secret/tls"]);
        let why = given().check(&spec).unwrap_err();
        assert!(why.contains("\"raw\"") && why.contains("no text"), "{why}");
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let with = |source: &str| {
            spec(&format!(
                r#"{{"containers":[{{"name":"a","image":"a","env":[{{"name":"P","valueFrom":{{"secretKeyRef":{source}}}}}]}}]}}"#
            ))
        };
        for (source, words) in [
            (r#"{"name":"db","key":"user"}"#, "has no key \"user\""),
            (r#"{"name":"none","key":"user"}"#, "there is no secret \"none\""),
        ] {
            let why = given().check(&with(source)).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        assert_eq!(given().check(&with(r#"{"name":"none","key":"user","optional":true}"#)), Ok(()));
        assert_eq!(given().check(&with(r#"{"name":"db","key":"password"}"#)), Ok(()));
    }

    #[test]
    fn debug_shows_names_and_no_values() {
        let shown = format!("{:?}", given());
        assert!(shown.contains("db") && !shown.contains("hunter2") && !shown.contains("fast"), "{shown}");
    }
}
