//! The macro that makes a struct of settings, and what it says about each of them.

/// One setting, for flags, variables and the reference page.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Its name in the configuration file, with its section: `wal.sync`.
    pub key: &'static str,
    /// What it does.
    pub doc: String,
    /// Its default, as it would be written.
    pub default: String,
    /// The lowest and the highest value, if it has a range.
    pub range: Option<(String, String)>,
    /// What kind of value it takes, for help texts: `SIZE`.
    pub value_name: &'static str,
}

impl Setting {
    /// The flag without its dashes: `wal-sync`.
    pub fn flag(&self) -> String {
        flag(self.key)
    }

    /// The environment variable: `FLUMEN_WAL_SYNC`.
    pub fn variable(&self) -> String {
        variable(self.key)
    }
}

fn flag(key: &str) -> String {
    key.replace(['.', '_'], "-")
}

fn variable(key: &str) -> String {
    format!("FLUMEN_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Where a value came from, so that an error can name the place to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File,
}

impl Source {
    /// The setting as it is called there.
    pub(super) fn name_of(self, key: &str) -> String {
        match self {
            Self::Flag => format!("--{}", flag(key)),
            Self::Environment => variable(key),
            Self::File => key.to_owned(),
        }
    }
}

/// Defines a struct of settings with documentation, defaults and ranges in one place:
///
/// ```text
/// section! {
///     /// What it is about.
///     pub struct Name("prefix") {
///         /// What the setting does.
///         field: Type = default, in lowest..=highest;
///     }
///     sections { … }      // nested structs made the same way, if any
/// }
/// ```
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident($prefix:tt) {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $type:ty = $default:expr $(, in $range:expr)?;
            )*
        }
        $(sections {
            $( $(#[doc = $section_doc:literal])* $section:ident: $section_type:ty, )*
        })?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                #[serde(with = "crate::config::value::as_text")]
                pub $field: $type,
            )*
            $($(
                $(#[doc = $section_doc])*
                pub $section: $section_type,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: $default, )*
                    $($( $section: <$section_type>::default(), )*)?
                }
            }
        }

        impl $name {
            fn describe(&self, all: &mut Vec<Setting>) {
                $(
                    let range: Option<std::ops::RangeInclusive<$type>> = None $(.or(Some($range)))?;
                    all.push(Setting {
                        key: crate::config::section::key!($prefix, $field),
                        doc: [$($doc.trim()),*].join(" "),
                        default: Value::to_text(&self.$field),
                        range: range.map(|range| {
                            (Value::to_text(range.start()), Value::to_text(range.end()))
                        }),
                        value_name: <$type as Value>::NAME,
                    });
                )*
                $($( self.$section.describe(all); )*)?
            }

            fn set_if_known(
                &mut self,
                key: &str,
                text: &str,
                source: Source,
            ) -> Result<bool, ConfigError> {
                $(
                    let this = crate::config::section::key!($prefix, $field);
                    if key == this {
                        self.$field = Value::parse(text).map_err(|text| ConfigError::Invalid {
                            key: this,
                            place: source,
                            text,
                        })?;
                        return Ok(true);
                    }
                )*
                $($(
                    if self.$section.set_if_known(key, text, source)? {
                        return Ok(true);
                    }
                )*)?
                Ok(false)
            }

            fn check_ranges(&self) -> Result<(), ConfigError> {
                $($(
                    let range: std::ops::RangeInclusive<$type> = $range;
                    if !range.contains(&self.$field) {
                        return Err(ConfigError::OutOfRange {
                            key: crate::config::section::key!($prefix, $field),
                            value: Value::to_text(&self.$field),
                            expected: format!(
                                "between {} and {}",
                                Value::to_text(range.start()),
                                Value::to_text(range.end()),
                            ),
                        });
                    }
                )?)*
                $($( self.$section.check_ranges()?; )*)?
                Ok(())
            }
        }
    };
}

/// The key of a field: with its section, unless that is the root.
macro_rules! key {
    ("", $field:ident) => {
        stringify!($field)
    };
    ($prefix:tt, $field:ident) => {
        concat!($prefix, ".", stringify!($field))
    };
}

pub(super) use {key, section};
