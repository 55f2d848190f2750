//! The forms that answers are printed in: a table for people, JSON, YAML or names for programs.

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    escape,
    failure::{Failure, Report},
    listed::{Listed, Shown},
    table::{Headed, Table},
    terminal::Terminal,
};

/// The forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The table of the first columns.
    #[default]
    #[value(skip)]
    Table,
    /// A table with every column.
    Wide,
    /// JSON, as the controller sent it.
    Json,
    /// YAML of the same.
    Yaml,
    /// NOUN/NAME, one a line.
    Name,
}

/// Options of every command that lists.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct OutputArgs {
    /// Print in another form.
    #[arg(short = 'o', long = "output", value_name = "FORM", value_enum)]
    format: Option<Format>,
    /// Print ids only.
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) quiet: bool,
    /// Leave the header of the table out.
    #[arg(long)]
    no_headers: bool,
}

/// How many there are: one that was asked for by name is printed by itself, others as a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// The one that was named.
    One,
    /// However many there are.
    List,
}

impl OutputArgs {
    /// The form.
    pub(crate) fn format(&self) -> Format {
        self.format.unwrap_or_default()
    }

    /// Whether tables begin with their header.
    pub(crate) const fn headed(&self) -> Headed {
        if self.no_headers { Headed::No } else { Headed::Yes }
    }

    /// Prints objects in the chosen form.
    pub(crate) fn print<T: Listed>(
        &self,
        items: &[Shown<T>],
        count: Count,
        terminal: &mut Terminal,
    ) -> Result<(), Failure> {
        if self.quiet {
            return items.iter().try_for_each(|item| terminal.print_line(short_id(&item.object)));
        }
        let values = || match (count, items) {
            (Count::One, [item]) => item.value.clone(),
            _ => Value::Array(items.iter().map(|item| item.value.clone()).collect()),
        };
        match self.format() {
            Format::Table | Format::Wide => {
                let text = table(items, self.format(), Timestamp::now()).render(self.headed());
                terminal.print(&ended::<T>(text, self.format()))
            }
            Format::Json => terminal.print(&json(&values())?),
            Format::Yaml => terminal.print(&yaml(&values())?),
            Format::Name => items.iter().try_for_each(|item| terminal.print_line(&noun_name(&item.object))),
        }
    }
}

/// The text of a table with its lines ended as they are printed. Documented tables keep the spaces that fill their
/// last column; where sentences make it wide, those spaces would wrap into empty lines.
pub(crate) fn ended<T: Listed>(text: String, format: Format) -> String {
    if format == Format::Table && T::NOUN != crate::noun::Noun::Event {
        return text;
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The id by which commands know it.
pub(crate) fn short_id<T: Listed>(object: &T) -> &str {
    match T::NOUN {
        crate::noun::Noun::Workload => object.long_id(),
        crate::noun::Noun::Instance
        | crate::noun::Noun::Node
        | crate::noun::Noun::Event
        | crate::noun::Noun::Config
        | crate::noun::Noun::Secret => object.name(),
    }
}

/// `instance/web-1`.
pub(crate) fn noun_name<T: Listed>(object: &T) -> String {
    format!("{}/{}", T::NOUN, object.name())
}

/// Objects in their columns.
pub(crate) fn table<T: Listed>(items: &[Shown<T>], format: Format, now: Timestamp) -> Table {
    let mut header = T::COLUMNS.to_vec();
    if format == Format::Wide {
        header.extend(T::MORE);
    }
    let mut table = Table::new(header);
    for item in items {
        table.push(row(&item.object, format, now));
    }
    table
}

/// One object in its columns.
pub(crate) fn row<T: Listed>(object: &T, format: Format, now: Timestamp) -> Vec<String> {
    let mut cells = object.cells(now);
    if format == Format::Wide {
        cells.extend(object.more(now));
    }
    cells
}

/// JSON for programs and people, harmless to a terminal.
pub(crate) fn json(value: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| unprintable(&error))?;
    Ok(format!("{}\n", escape::json(&text)))
}

/// YAML of the same. A value that YAML would print raw is printed as JSON, which is YAML too.
pub(crate) fn yaml(value: &Value) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value).map_err(|error| unprintable(&error))?;
    if !escape::is_harmless(&text) {
        return json(value);
    }
    Ok(if text.ends_with('\n') { text } else { format!("{text}\n") })
}

fn unprintable(error: &dyn std::fmt::Display) -> Failure {
    Report::new(format!("the answer cannot be printed in this form: {error}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_reads_back_and_never_holds_control_characters() {
        for text in [
            "plain",
            "two\nlines",
            "a\x1b[2Jb",
            "c\u{9b}d",
            "e\u{202e}f\u{2028}g",
            "yes",
            "07",
            "x: y",
            "tab\t",
        ] {
            let value = serde_json::json!({ "key": text, "list": [text, 1, null, {"a": {"b": []}}] });
            let printed = yaml(&value).unwrap();
            assert!(escape::is_harmless(&printed), "{printed:?}");
            assert_eq!(serde_saphyr::from_str::<Value>(&printed).unwrap(), value, "{printed}");
        }
    }
}
