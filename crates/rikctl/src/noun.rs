//! The nouns of the command line, in every form that people type them.

use std::{ffi::OsStr, fmt};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, TypedValueParser},
    error::{ContextKind, ContextValue, ErrorKind},
};

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noun {
    Workload,
    Instance,
    Node,
    Event,
    Config,
    Secret,
}

impl Noun {
    const ALL: [Self; 6] =
        [Self::Workload, Self::Instance, Self::Node, Self::Event, Self::Config, Self::Secret];

    /// One of them; also its name in a watch.
    pub(crate) const fn singular(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Instance => "instance",
            Self::Node => "node",
            Self::Event => "event",
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }

    /// Many of them; also their path in the API.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Workload => "workloads",
            Self::Instance => "instances",
            Self::Node => "nodes",
            Self::Event => "events",
            Self::Config => "configs",
            Self::Secret => "secrets",
        }
    }

    const fn short(self) -> &'static str {
        match self {
            Self::Workload => "wl",
            Self::Instance => "inst",
            Self::Node => "no",
            Self::Event => "ev",
            Self::Config => "cfg",
            Self::Secret => "sec",
        }
    }

    fn read(text: &str) -> Option<Self> {
        let text = text.to_lowercase();
        Self::ALL
            .into_iter()
            .find(|noun| [noun.singular(), noun.plural(), noun.short()].contains(&text.as_str()))
    }
}

impl fmt::Display for Noun {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.singular())
    }
}

/// `instances`, or `instance/web-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) noun: Noun,
    pub(crate) name: Option<String>,
}

impl Subject {
    /// All names that were typed: behind the slash, and as words of their own, where the noun may stand again.
    pub(crate) fn names(&self, words: &[String]) -> Vec<String> {
        let own = self.name.iter().cloned();
        own.chain(words.iter().map(|word| bare(self.noun, word).to_owned())).collect()
    }
}

/// `word` without the noun before it.
pub(crate) fn bare(noun: Noun, word: &str) -> &str {
    match word.split_once('/') {
        Some((prefix, name)) if Noun::read(prefix) == Some(noun) => name,
        _ => word,
    }
}

/// Reads a [`Subject`] of some nouns.
#[derive(Clone, Debug)]
pub(crate) struct SubjectParser(pub(crate) &'static [Noun]);

/// Nouns that can be listed.
pub(crate) const LISTED: SubjectParser = SubjectParser(&Noun::ALL);
/// Nouns that stand for objects.
pub(crate) const OBJECTS: SubjectParser =
    SubjectParser(&[Noun::Workload, Noun::Instance, Noun::Node, Noun::Config, Noun::Secret]);
/// What is measured.
pub(crate) const MEASURED: SubjectParser = SubjectParser(&[Noun::Instance, Noun::Node]);
/// Instances alone.
pub(crate) const INSTANCES: SubjectParser = SubjectParser(&[Noun::Instance]);

impl TypedValueParser for SubjectParser {
    type Value = Subject;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, value: &OsStr) -> Result<Subject, Error> {
        let text = value.to_string_lossy();
        let (noun, name) = match text.split_once('/') {
            Some((noun, name)) => (noun, Some(name.to_owned())),
            None => (text.as_ref(), None),
        };
        match Noun::read(noun).filter(|noun| self.0.contains(noun)) {
            Some(noun) if name.as_deref() != Some("") => Ok(Subject { noun, name }),
            _ => Err(self.refuse(command, argument, &text)),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|noun| {
            let others = [noun.singular(), noun.short()];
            PossibleValue::new(noun.plural()).aliases(others)
        })))
    }
}

impl SubjectParser {
    fn refuse(&self, command: &Command, argument: Option<&Arg>, text: &str) -> Error {
        let mut error = Error::new(ErrorKind::InvalidValue).with_cmd(command);
        if let Some(argument) = argument {
            error.insert(ContextKind::InvalidArg, ContextValue::String(argument.to_string()));
        }
        error.insert(ContextKind::InvalidValue, ContextValue::String(crate::escape::line(text).into_owned()));
        let allowed: Vec<_> = self.0.iter().map(|noun| noun.plural().to_owned()).collect();
        let near = allowed.iter().filter(|noun| strsim::jaro_winkler(noun, &text.to_lowercase()) > 0.7);
        if let Some(near) =
            near.max_by(|a, b| strsim::jaro_winkler(a, text).total_cmp(&strsim::jaro_winkler(b, text)))
        {
            error.insert(ContextKind::SuggestedValue, ContextValue::String(near.clone()));
        }
        error.insert(ContextKind::ValidValue, ContextValue::Strings(allowed));
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_is_understood_in_every_form() {
        for text in ["instance", "instances", "inst", "Instance", "INSTANCES"] {
            assert_eq!(Noun::read(text), Some(Noun::Instance), "{text}");
        }
        assert_eq!(
            (Noun::read("wl"), Noun::read("no"), Noun::read("ev"), Noun::read("pod")),
            (Some(Noun::Workload), Some(Noun::Node), Some(Noun::Event), None)
        );
    }

    #[test]
    fn names_may_carry_their_noun() {
        let subject = Subject { noun: Noun::Instance, name: Some("a".to_owned()) };
        assert_eq!(
            subject.names(&["inst/b".to_owned(), "c".to_owned(), "node/d".to_owned()]),
            ["a", "b", "c", "node/d"]
        );
    }
}
