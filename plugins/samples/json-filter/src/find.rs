//! Finds a field in JSON and compares it on the spot: nothing is copied, and nothing after the
//! field is read.
use std::{cell::Cell, cmp::Ordering, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Unexpected, Visitor};

use crate::{Config, Op, Operand, number::Number};

/// Compares the field that `config` names with the value that it gives. `None`: the field is
/// not there.
pub(crate) fn compare(json: &[u8], config: &Config) -> Result<Option<bool>, String> {
    let verdict = Cell::new(None);
    let search = Search {
        path: &config.field.0,
        config,
        verdict: &verdict,
    };
    let result = search.deserialize(&mut serde_json::Deserializer::from_slice(json));
    match (verdict.get(), result) {
        // The walk ends with an error once it has what it came for.
        (Some(found), _) => Ok(Some(found)),
        (None, Ok(())) => Ok(None),
        (None, Err(error)) => Err(format!("field {}: {error}", config.field)),
    }
}

/// Looks for the rest of a path in the value at hand.
struct Search<'c> {
    path: &'c [String],
    config: &'c Config,
    verdict: &'c Cell<Option<bool>>,
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path, &self.config.value) {
            ([_, ..], _) => f.write_str("an object"),
            ([], Operand::Boolean(_)) => f.write_str("a boolean, as it is compared with one"),
            ([], Operand::Number(_)) => f.write_str("a number, as it is compared with one"),
            ([], Operand::Text(_)) => f.write_str("a string, as it is compared with one"),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((name, rest)) = self.path.split_first() else {
            return Err(Error::invalid_type(Unexpected::Map, &self));
        };
        while let Some(found) = map.next_key_seed(IsName(name))? {
            if found {
                map.next_value_seed(Search { path: rest, ..self })?;
                if self.verdict.get().is_some() {
                    return Err(Error::custom(""));
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    /// Null counts as missing.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match (self.path, &self.config.value) {
            ([], Operand::Boolean(operand)) => self.decide(value.cmp(operand)),
            _ => Err(E::invalid_type(Unexpected::Bool(value), &self)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.compare_number(Number::Unsigned(value), Unexpected::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.compare_number(Number::Signed(value), Unexpected::Signed(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.compare_number(Number::Float(value), Unexpected::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match (self.path, &self.config.value) {
            ([], Operand::Text(operand)) => self.decide(value.cmp(operand)),
            _ => Err(E::invalid_type(Unexpected::Str(value), &self)),
        }
    }
}

impl Search<'_> {
    fn compare_number<E: Error>(self, value: Number, found: Unexpected<'_>) -> Result<(), E> {
        let ordering = match (self.path, &self.config.value) {
            ([], Operand::Number(operand)) => value.compare(*operand),
            _ => None,
        };
        match ordering {
            Some(ordering) => self.decide(ordering),
            None => Err(E::invalid_type(found, &self)),
        }
    }

    fn decide<E>(self, ordering: Ordering) -> Result<(), E> {
        self.verdict.set(Some(match self.config.op {
            Op::Equal => ordering.is_eq(),
            Op::NotEqual => ordering.is_ne(),
            Op::Less => ordering.is_lt(),
            Op::LessOrEqual => ordering.is_le(),
            Op::Greater => ordering.is_gt(),
            Op::GreaterOrEqual => ordering.is_ge(),
        }));
        Ok(())
    }
}

/// Compares the name of a field without keeping it.
struct IsName<'c>(&'c str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<bool, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}
