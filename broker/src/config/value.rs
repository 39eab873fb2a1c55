//! What a setting's value can be, read from text and written as text.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use flumen_protocol::topic::Name;

use super::{ByteSize, HostPort, HostPorts, Interval};
use crate::wal::SyncPolicy;

/// A type that settings have. Everything is read from text, so that a file, a flag and a
/// variable take the same and refuse the same with the same words.
pub(super) trait Value: Sized {
    /// The kind of value in help texts.
    const NAME: &'static str;

    /// Whether a file may give it as a plain number. What is no number by nature, such as a
    /// path, is more likely a slip then.
    const IS_NUMBER: bool = false;

    /// Reads it; the error holds the text and what is expected.
    fn parse(text: &str) -> Result<Self, String>;

    /// Writes it so that [`Value::parse`] reads it again.
    fn to_text(&self) -> String;
}

/// The word for an optional setting that is not set.
const NONE: &str = "none";

impl Value for u32 {
    const NAME: &'static str = "N";
    const IS_NUMBER: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        text.replace('_', "")
            .parse()
            .map_err(|_| format!("{text:?} is not a whole number from 0 to {}", Self::MAX))
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    const NAME: &'static str = "TEXT";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_text(&self) -> String {
        self.clone()
    }
}

impl Value for Name {
    const NAME: &'static str = "NAME";

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.to_string())
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const NAME: &'static str = "PATH";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a path cannot be empty".to_owned());
        }
        Ok(Self::from(text))
    }

    fn to_text(&self) -> String {
        self.display().to_string()
    }
}

impl Value for SocketAddr {
    const NAME: &'static str = "IP:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("{text:?} is not an address; write IP:PORT, such as 0.0.0.0:4650 or [::1]:4650")
        })
    }

    fn to_text(&self) -> String {
        self.to_string()
    }
}

impl<T: Value> Value for Option<T> {
    const NAME: &'static str = T::NAME;
    const IS_NUMBER: bool = T::IS_NUMBER;

    fn parse(text: &str) -> Result<Self, String> {
        if text == NONE {
            Ok(None)
        } else {
            T::parse(text).map(Some)
        }
    }

    fn to_text(&self) -> String {
        self.as_ref().map_or_else(|| NONE.to_owned(), T::to_text)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is no log format; use text or json")),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

macro_rules! value_by_text {
    ($($type:ty => $name:literal, number: $is_number:literal;)*) => { $(
        impl Value for $type {
            const NAME: &'static str = $name;
            const IS_NUMBER: bool = $is_number;

            fn parse(text: &str) -> Result<Self, String> {
                text.parse::<Self>().map_err(|error| error.to_string())
            }

            fn to_text(&self) -> String {
                self.to_string()
            }
        }
    )* };
}

value_by_text! {
    ByteSize => "SIZE", number: true;
    Interval => "DURATION", number: false;
    SyncPolicy => "always|every DURATION", number: false;
    HostPort => "HOST[:PORT]", number: false;
    HostPorts => "HOST[:PORT],…", number: false;
    LogFormat => "text|json", number: false;
}

/// Values in a configuration file: text, or a plain number where that is natural.
pub(super) mod as_text {
    use std::{fmt, marker::PhantomData};

    use serde::{
        Deserializer, Serializer,
        de::{self, Unexpected},
    };

    use super::Value;

    pub(in crate::config) fn serialize<T: Value, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_text())
    }

    pub(in crate::config) fn deserialize<'de, T: Value, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<T: Value> de::Visitor<'_> for Visitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if T::IS_NUMBER {
                    write!(f, "a number or a text in quotes: {}", T::NAME)
                } else {
                    write!(f, "a text in quotes: {}", T::NAME)
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::parse(text).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
                if T::IS_NUMBER {
                    self.visit_str(&number.to_string())
                } else {
                    Err(E::invalid_type(Unexpected::Signed(number), &self))
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
                if T::IS_NUMBER {
                    self.visit_str(&number.to_string())
                } else {
                    Err(E::invalid_type(Unexpected::Unsigned(number), &self))
                }
            }
        }

        deserializer.deserialize_any(Visitor(PhantomData))
    }
}
