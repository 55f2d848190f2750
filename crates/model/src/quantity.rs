//! Quantities as people write them: `100m` of a processor, `64Mi` of memory (the syntax of Kubernetes).
//!
//! Both are held as whole numbers in their smallest unit (millicores, bytes), so that sums are exact.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Processor time in thousandths of a core. Written as `250m`, `0.25` or `2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub u64);

/// Memory in bytes. Written as `64Mi`, `1G`, `128974848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(pub u64);

/// The most cores that a request may name: far above any machine, far below an overflow of a sum.
const MAX_CORES: u64 = 1 << 20;
/// The most bytes that a request may name (1 EiB), for the same reason.
const MAX_BYTES: u64 = 1 << 60;

/// A quantity that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a known suffix.
    #[error("{found:?} is not a quantity; allowed are {allowed}")]
    Syntax {
        /// What was written.
        found: String,
        /// The forms that are understood.
        allowed: &'static str,
    },
    /// Negative, or larger than any machine.
    #[error("{found:?} is out of range; allowed is {allowed}")]
    Range {
        /// What was written.
        found: String,
        /// The range.
        allowed: &'static str,
    },
}

const CPU_FORMS: &str = "cores such as 2 or 0.5, or millicores such as 250m";
const MEMORY_FORMS: &str = "bytes, or a number with Ki, Mi, Gi, Ti, k, M, G or T";

impl FromStr for Cpu {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, scale) = match text.strip_suffix('m') {
            Some(number) => (number, 1),
            None => (text, 1000),
        };
        let millis = scaled(number, scale).ok_or_else(|| syntax(text, CPU_FORMS))?;
        if millis > MAX_CORES * 1000 { Err(range(text, "0 to 1048576 cores")) } else { Ok(Self(millis)) }
    }
}

impl FromStr for Memory {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SUFFIXES: [(&str, u64); 8] = [
            ("Ki", 1 << 10),
            ("Mi", 1 << 20),
            ("Gi", 1 << 30),
            ("Ti", 1 << 40),
            ("k", 1_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
            ("T", 1_000_000_000_000),
        ];
        let (number, scale) = SUFFIXES
            .iter()
            .find_map(|(suffix, scale)| text.strip_suffix(suffix).map(|number| (number, *scale)))
            .unwrap_or((text, 1));
        let bytes = scaled(number, scale).ok_or_else(|| syntax(text, MEMORY_FORMS))?;
        if bytes > MAX_BYTES { Err(range(text, "0 to 1 EiB")) } else { Ok(Self(bytes)) }
    }
}

/// `number` (digits, with at most nine decimals) times `scale`, rounded down. None if it is no such number or overflows.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(decimals) || decimals.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let exponent = u32::try_from(decimals.len()).ok()?;
    let decimals = if decimals.is_empty() { 0 } else { decimals.parse::<u64>().ok()? };
    let part = u128::from(decimals) * u128::from(scale) / 10_u128.pow(exponent);
    whole.checked_add(u64::try_from(part).ok()?)
}

fn syntax(found: &str, allowed: &'static str) -> QuantityError {
    QuantityError::Syntax { found: found.to_owned(), allowed }
}

fn range(found: &str, allowed: &'static str) -> QuantityError {
    QuantityError::Range { found: found.to_owned(), allowed }
}

impl fmt::Display for Cpu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(out, "{}", self.0 / 1000)
        } else {
            write!(out, "{}m", self.0)
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, scale) in [("Ti", 1_u64 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(out, "{}{suffix}", self.0 / scale);
            }
        }
        write!(out, "{}", self.0)
    }
}

/// A scalar as a file may write it: quoted or bare.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Scalar;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a quantity")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
        }
        source.deserialize_any(Visitor)
    }
}

macro_rules! as_text {
    ($name:ident, $format:literal, $description:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
                target.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
                Scalar::deserialize(source)?.0.parse().map_err(de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, SchemaType, Type};
                ObjectBuilder::new()
                    .schema_type(SchemaType::from_iter([Type::String, Type::Number]))
                    .format(Some(SchemaFormat::Custom($format.to_owned())))
                    .description(Some($description))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

as_text!(Cpu, "cpu", "Processor time: cores such as 2 or 0.5, or millicores such as 250m.");
as_text!(Memory, "memory", "Memory: bytes, or a number with Ki, Mi, Gi, Ti, k, M, G or T.");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_common_forms_mean_what_they_mean_elsewhere() {
        assert_eq!("250m".parse(), Ok(Cpu(250)));
        assert_eq!("0.5".parse(), Ok(Cpu(500)));
        assert_eq!("2".parse(), Ok(Cpu(2000)));
        assert_eq!("64Mi".parse(), Ok(Memory(64 << 20)));
        assert_eq!("1.5Gi".parse(), Ok(Memory(3 << 29)));
        assert_eq!("1000".parse(), Ok(Memory(1000)));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "m", "-1", "1e3", "NaN", "1e30Gi", "64mi", "1..2", "99999999999999999999", " 1", "."]
        {
            assert!(text.parse::<Cpu>().is_err(), "{text:?} as cpu");
            assert!(text.parse::<Memory>().is_err(), "{text:?} as memory");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(millis in 0..=MAX_CORES * 1000, bytes in 0..=MAX_BYTES) {
            prop_assert_eq!(Cpu(millis).to_string().parse(), Ok(Cpu(millis)));
            prop_assert_eq!(Memory(bytes).to_string().parse(), Ok(Memory(bytes)));
        }
    }
}
