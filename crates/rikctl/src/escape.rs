//! Makes text from elsewhere harmless to a terminal: nothing that it contains can move the cursor, end the line,
//! hide text or turn its direction.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a terminal, or a reader of lines, would take this character for more than a glyph.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text as part of one line: what is hostile is spelled out, as `\u{1b}`.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// The text of a log: its own line ends and tabs stay.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| matches!(character, '\n' | '\t'))
}

/// JSON text, in which what is hostile stands inside strings only and is spelled as JSON does.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|character| character != '\n' && is_hostile(character)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character != '\n' && is_hostile(character) {
            // Every hostile character is in the basic plane, so one escape spells it. Writing to a string cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Whether text of several lines can be shown as it is.
pub(crate) fn is_harmless(text: &str) -> bool {
    !text.chars().any(|character| character != '\n' && is_hostile(character))
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|character| is_hostile(character) && !stays(character)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hostile(character) && !stays(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(line("a\x1b[2J\r\n\u{9b}K\u{7f}b"), r"a\u{1b}[2J\r\n\u{9b}K\u{7f}b");
        assert_eq!(line("one\u{2028}two\u{202e}three"), r"one\u{2028}two\u{202e}three");
        assert_eq!(lines("one\ttwo\r\n\x1b]0;x\x07"), "one\ttwo\\r\n\\u{1b}]0;x\\u{7}");
    }

    #[test]
    fn ordinary_text_of_any_script_stays() {
        for text in ["web-1", "grüße, 世界", "🦀", ""] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn escaped_json_reads_back_the_same() {
        let value = serde_json::json!({ "a\u{85}": "x\u{9b}31m\u{202e}\u{7f}\n\x1b" });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let safe = json(&text);
        assert!(is_harmless(&safe), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
