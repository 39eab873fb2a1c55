//! The schema of a protocol as text, and the test that it has not changed.
//!
//! Messages travel in postcard, which writes no names, skips no fields and knows no defaults: the
//! order and the types of the fields are the format, and one more of them is another format. So
//! each protocol has its schema in a file next to its code, whose name has the protocol's version,
//! and a test that fails when a message is no longer what the file says.
//!
//! ```
//! let mut schema = flumen_schema::Schema::default();
//! schema.add::<Option<(u8, String)>>();
//! assert_eq!(schema.to_string(), "Option<(u8, String)>: option of (u8, str)\n");
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | `trace` | a deserializer that has no data, and notes what a type asks for |
//! | `pin` | comparing a schema with its file |
#![forbid(unsafe_code)]

mod pin;
mod trace;

use std::{any::type_name, collections::BTreeMap, fmt};

use serde::de::DeserializeOwned;

use self::trace::{Tracer, short};

/// What types look like to postcard: those that were added, and those in them.
#[derive(Debug, Default)]
pub struct Schema {
    /// Messages that are no struct or enum of their own.
    roots: BTreeMap<&'static str, String>,
    types: BTreeMap<&'static str, Shape>,
    /// Whether the last look at a type has left out a variant.
    has_left_out: bool,
}

#[derive(Debug)]
enum Shape {
    /// What each field is.
    Struct(Vec<(&'static str, String)>),
    /// What each variant is, once it was looked at.
    Enum(Vec<Variant>),
}

#[derive(Debug)]
struct Variant {
    name: &'static str,
    of: Option<String>,
    is_complete: bool,
}

/// A type looks different each time, or asks for more variants than can be.
const LOOKS_MAX: usize = 10_000;

impl Schema {
    /// Adds a message with all that is in it.
    ///
    /// # Panics
    /// If the type takes no value that is made up: texts of 64 letters, and numbers that are 1.
    pub fn add<M: DeserializeOwned>(&mut self) {
        for _ in 0..LOOKS_MAX {
            self.has_left_out = false;
            let mut found = String::new();
            let looked = M::deserialize(Tracer::new(self, &mut found));
            if let Err(error) = looked {
                panic!("{}: {error}", type_name::<M>());
            }
            if !self.has_left_out {
                let name = type_name::<M>();
                if !self.types.contains_key(name) {
                    self.roots.insert(name, found);
                }
                return;
            }
        }
        panic!("{} has no end", type_name::<M>());
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, of) in &self.roots {
            let name = short(name);
            writeln!(f, "{name}: {of}")?;
        }
        for (name, shape) in &self.types {
            let name = short(name);
            match shape {
                Shape::Struct(fields) => {
                    for (field, of) in fields {
                        writeln!(f, "{name}.{field}: {of}")?;
                    }
                }
                Shape::Enum(variants) => {
                    for (at, variant) in variants.iter().enumerate() {
                        let of = variant.of.as_deref().unwrap_or("not looked at");
                        writeln!(f, "{name} {at} {}: {of}", variant.name)?;
                    }
                }
            }
        }
        Ok(())
    }
}
