//! A deserializer without data: it makes values up, and notes what a type asks it for.
//!
//! One look at an enum shows one variant of it. So a type is looked at until all variants were
//! shown, of the enums in it, too: each look takes the first variant that is not complete.

use std::any::type_name;

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
        Visitor, value::Error,
    },
    forward_to_deserialize_any,
};

use super::{Schema, Shape, Variant};

/// A text that is a name, and a digest as well.
const TEXT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Looks at a value, and leaves what it is in `found`.
pub(super) struct Tracer<'a> {
    schema: &'a mut Schema,
    found: &'a mut String,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(schema: &'a mut Schema, found: &'a mut String) -> Self {
        Self { schema, found }
    }

    fn elements<'de, V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let mut found = Vec::new();
        let value = visitor.visit_seq(Elements {
            schema: self.schema,
            left: len,
            found: &mut found,
        });
        let is_array = len > 2 && found.iter().all(|element| *element == found[0]);
        *self.found = if is_array {
            format!("[{}; {len}]", found[0])
        } else {
            format!("({})", found.join(", "))
        };
        value
    }
}

/// The name of a type without the modules that types are in.
pub(super) fn short(name: &str) -> String {
    let parts = name.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_');
    parts.filter(|part| !part.ends_with(':')).collect()
}

macro_rules! plain {
    ($($method:ident $visit:ident $value:expr, $name:literal;)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            $name.clone_into(self.found);
            visitor.$visit($value)
        }
    )* };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    plain! {
        deserialize_bool visit_bool false, "bool";
        deserialize_i8 visit_i8 1, "i8";
        deserialize_i16 visit_i16 1, "i16";
        deserialize_i32 visit_i32 1, "i32";
        deserialize_i64 visit_i64 1, "i64";
        deserialize_i128 visit_i128 1, "i128";
        deserialize_u8 visit_u8 1, "u8";
        deserialize_u16 visit_u16 1, "u16";
        deserialize_u32 visit_u32 1, "u32";
        deserialize_u64 visit_u64 1, "u64";
        deserialize_u128 visit_u128 1, "u128";
        deserialize_f32 visit_f32 1.0, "f32";
        deserialize_f64 visit_f64 1.0, "f64";
        deserialize_char visit_char 'a', "char";
        deserialize_str visit_str TEXT, "str";
        deserialize_string visit_str TEXT, "str";
        deserialize_bytes visit_bytes b"a", "bytes";
        deserialize_byte_buf visit_bytes b"a", "bytes";
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut of = String::new();
        let value = visitor.visit_some(Tracer::new(self.schema, &mut of));
        *self.found = format!("option of {of}");
        value
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        "nothing".clone_into(self.found);
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut of = String::new();
        let value = visitor.visit_seq(List {
            is_empty: false,
            tracer: Tracer::new(self.schema, &mut of),
        });
        *self.found = format!("list of {of}");
        value
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.elements(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.elements(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut found = Vec::new();
        let value = visitor.visit_map(Elements {
            schema: self.schema,
            left: 2,
            found: &mut found,
        });
        *self.found = format!("map of {}", found.join(" to "));
        value
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut found = Vec::new();
        let value = visitor.visit_seq(Elements {
            schema: self.schema,
            left: fields.len(),
            found: &mut found,
        });
        let name = type_name::<V::Value>();
        let fields = fields.iter().copied().zip(found).collect();
        self.schema.types.insert(name, Shape::Struct(fields));
        *self.found = short(name);
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let name = type_name::<V::Value>();
        *self.found = short(name);
        let all = self.schema.variants(name, variants);
        let at = all.iter().position(|variant| !variant.is_complete);
        let at = at.unwrap_or(0);
        let left_out_before = std::mem::take(&mut self.schema.has_left_out);
        let mut of = String::new();
        let value = visitor.visit_enum(OneVariant {
            schema: self.schema,
            at,
            of: &mut of,
        });
        let is_complete = !self.schema.has_left_out;
        let all = self.schema.variants(name, variants);
        all[at].of = Some(of);
        all[at].is_complete |= is_complete;
        let is_whole = all.iter().all(|variant| variant.is_complete);
        self.schema.has_left_out = left_out_before || !is_whole;
        value
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("postcard does not say what comes"))
    }

    forward_to_deserialize_any! { identifier ignored_any }
}

impl Schema {
    fn variants(&mut self, name: &'static str, names: &[&'static str]) -> &mut [Variant] {
        let shape = self.types.entry(name).or_insert_with(|| {
            let variants = names.iter().map(|name| Variant {
                name,
                of: None,
                is_complete: false,
            });
            Shape::Enum(variants.collect())
        });
        match shape {
            Shape::Enum(variants) => variants,
            Shape::Struct(_) => panic!("two types are called {name}"),
        }
    }
}

/// So many values, one after the other.
struct Elements<'a> {
    schema: &'a mut Schema,
    left: usize,
    found: &'a mut Vec<String>,
}

impl Elements<'_> {
    fn next<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut found = String::new();
        let value = seed.deserialize(Tracer::new(self.schema, &mut found));
        self.found.push(found);
        value.map(Some)
    }
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.next(seed)
    }
}

impl<'de> MapAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.next(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = self.next(seed)?;
        value.ok_or_else(|| serde::de::Error::custom("a key has a value"))
    }
}

/// One value, or none where values of the type cannot be made up: then it is for its own test to
/// say what they are.
struct List<'a> {
    is_empty: bool,
    tracer: Tracer<'a>,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if std::mem::replace(&mut self.is_empty, true) {
            return Ok(None);
        }
        let tracer = Tracer::new(self.tracer.schema, self.tracer.found);
        Ok(seed.deserialize(tracer).ok())
    }
}

/// One variant of an enum.
struct OneVariant<'a> {
    schema: &'a mut Schema,
    at: usize,
    of: &'a mut String,
}

impl<'de> EnumAccess<'de> for OneVariant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let at = IntoDeserializer::<Error>::into_deserializer(self.at as u32);
        Ok((seed.deserialize(at)?, self))
    }
}

impl<'de> VariantAccess<'de> for OneVariant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        "nothing".clone_into(self.of);
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(Tracer::new(self.schema, self.of))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        Tracer::new(self.schema, self.of).elements(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut found = Vec::new();
        let value = visitor.visit_seq(Elements {
            schema: self.schema,
            left: fields.len(),
            found: &mut found,
        });
        let fields = fields.iter().zip(found);
        let fields: Vec<_> = fields.map(|(name, of)| format!("{name}: {of}")).collect();
        *self.of = format!("{{ {} }}", fields.join(", "));
        value
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its shape counts")]
    enum Message {
        Empty,
        Pair(u8, Option<Inner>),
        Named { result: Result<Inner, String> },
    }

    #[derive(Deserialize)]
    #[allow(dead_code, reason = "only its shape counts")]
    struct Inner {
        bytes: [u8; 4],
        kinds: Vec<Kind>,
    }

    #[derive(Deserialize)]
    enum Kind {
        One,
        Two,
    }

    #[test]
    fn every_variant_of_every_enum_is_found_wherever_it_is() {
        let mut schema = Schema::default();
        schema.add::<Message>();
        assert_eq!(
            schema.to_string(),
            "Result<Inner, String> 0 Ok: Inner\n\
             Result<Inner, String> 1 Err: str\n\
             Inner.bytes: [u8; 4]\n\
             Inner.kinds: list of Kind\n\
             Kind 0 One: nothing\n\
             Kind 1 Two: nothing\n\
             Message 0 Empty: nothing\n\
             Message 1 Pair: (u8, option of Inner)\n\
             Message 2 Named: { result: Result<Inner, String> }\n"
        );
    }
}
