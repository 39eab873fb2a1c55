//! Between values of a type and bytes: formats and content types.

use std::{
    any::{Any, TypeId, type_name},
    cell::Cell,
    fmt,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Raw bytes: `client.producer::<Raw>("lines")` sends them and `client.consumer::<Raw>`
/// receives them as they are, without a format. `Vec<u8>` does the same.
pub type Raw = Bytes;

/// The content type of bytes that nobody described; the empty content type means the same.
pub const OCTET_STREAM: &str = "application/octet-stream";

const JSON: &str = "application/json";
const POSTCARD: &str = "postcard";

/// How values become bytes.
///
/// What travels beside the bytes is the format and the short name of the type, such as `Order`, and
/// that is what a consumer checks. It is not the type's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// [postcard](https://docs.rs/postcard): compact, for serde types on both sides. Nothing in the
    /// bytes says what they are, so the fields of a type, their order and their types must never
    /// change: values of before would be errors, or be read as something else. A type that has to
    /// change gets another name.
    Postcard,
    /// JSON, for what others read as well, and for types that change: fields have names, and serde's
    /// attributes, such as `#[serde(default)]`, say what becomes of those that are missing.
    Json,
    /// No format: the value is bytes.
    Raw,
}

impl Format {
    /// The format of a type unless its user says otherwise: raw for [`Raw`] and `Vec<u8>`,
    /// postcard for all others.
    pub(crate) fn of<T: 'static>() -> Self {
        if is::<T, Bytes>() || is::<T, Vec<u8>>() {
            Self::Raw
        } else {
            Self::Postcard
        }
    }

    /// The content type of values of `T`. Bytes sent as JSON hold JSON text already, and a
    /// `serde_json::Value` is of no particular type.
    pub(crate) fn content_type<T: 'static>(self) -> String {
        match self {
            Self::Raw => String::new(),
            Self::Postcard => format!("{POSTCARD}; type={}", short_type_name::<T>()),
            Self::Json if is::<T, serde_json::Value>() || Self::of::<T>() == Self::Raw => {
                JSON.to_owned()
            }
            Self::Json => format!("{JSON}; type={}", short_type_name::<T>()),
        }
    }

    /// Whether a consumer of this format and `wanted` content type can read what was sent
    /// as `found`.
    ///
    /// | consumer | reads |
    /// | --- | --- |
    /// | raw | everything |
    /// | JSON | JSON of the same type or of none, and bytes that nobody described |
    /// | postcard | postcard of the same type |
    ///
    /// Types are the same if their short names are: neither their modules nor their fields count.
    pub(crate) fn reads(self, wanted: &str, found: &str) -> bool {
        if self == Self::Raw || wanted == found {
            return true;
        }
        let ((wanted, wanted_type), (found, found_type)) = (split(wanted), split(found));
        let same_type = match (wanted_type, found_type) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        match self {
            Self::Json => {
                found.is_empty() || found == OCTET_STREAM || (found == wanted && same_type)
            }
            Self::Postcard => found == wanted && found_type.is_some() && same_type,
            Self::Raw => true,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Postcard => POSTCARD,
            Self::Json => "JSON",
            Self::Raw => "raw bytes",
        })
    }
}

/// Why a value cannot become bytes.
#[derive(Debug, thiserror::Error)]
#[error("a value of type {type_name} cannot be written as {format}: {reason}")]
#[non_exhaustive]
pub struct EncodeError {
    /// The type.
    pub type_name: String,
    /// The format.
    pub format: Format,
    /// Why.
    pub reason: String,
}

/// Why bytes cannot become a value.
#[derive(Debug, thiserror::Error)]
#[error("a value of type {type_name} cannot be read from {format}: {reason}")]
#[non_exhaustive]
pub struct DecodeError {
    /// The type.
    pub type_name: String,
    /// The format.
    pub format: Format,
    /// Why.
    pub reason: String,
}

/// A buffer for encoding that grew beyond this is not kept.
const SCRATCH_BYTES_MAX: usize = 1024 * 1024;

thread_local! {
    /// Where values are encoded, one after the other.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `with` with the bytes of `value`. Bytes are lent as they are; other values are
/// written to a buffer that is used again from record to record.
#[inline]
pub(crate) fn encode<T: Serialize + 'static, R>(
    format: Format,
    value: &T,
    with: impl FnOnce(&[u8]) -> R,
) -> Result<R, EncodeError> {
    if let Some(bytes) = as_bytes(value) {
        return Ok(with(bytes));
    }
    let mut scratch = SCRATCH.take();
    let written = write(format, value, &mut scratch);
    let result = written.map(|()| with(&scratch));
    if scratch.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
    result
}

fn write<T: Serialize + 'static>(
    format: Format,
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let failed = |reason: String| EncodeError {
        type_name: short_type_name::<T>(),
        format,
        reason,
    };
    out.clear();
    match format {
        Format::Postcard => {
            let buffer = std::mem::take(out);
            *out = postcard::to_extend(value, buffer).map_err(|e| failed(e.to_string()))?;
        }
        Format::Json => {
            serde_json::to_writer(out, value).map_err(|e| failed(e.to_string()))?;
        }
        Format::Raw => return Err(failed("use Raw or Vec<u8> for raw bytes".to_owned())),
    }
    Ok(())
}

/// Reads a value. `share` gives the same bytes without copying them; only raw values use it.
pub(crate) fn decode<T: DeserializeOwned + 'static>(
    format: Format,
    bytes: &[u8],
    share: impl FnOnce() -> Bytes,
) -> Result<T, DecodeError> {
    if is::<T, Bytes>() {
        return cast(share()).ok_or_else(|| unreadable::<T>(format, "not bytes"));
    }
    if is::<T, Vec<u8>>() {
        return cast(bytes.to_vec()).ok_or_else(|| unreadable::<T>(format, "not bytes"));
    }
    match format {
        Format::Postcard => match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => {
                let reason = format!("{} bytes are left over", rest.len());
                Err(unreadable::<T>(format, reason))
            }
            Err(error) => Err(unreadable::<T>(format, error)),
        },
        Format::Json => {
            serde_json::from_slice(bytes).map_err(|error| unreadable::<T>(format, error))
        }
        Format::Raw => Err(unreadable::<T>(format, "use Raw or Vec<u8> for raw bytes")),
    }
}

#[cold]
fn unreadable<T>(format: Format, reason: impl ToString) -> DecodeError {
    DecodeError {
        type_name: short_type_name::<T>(),
        format,
        reason: reason.to_string(),
    }
}

/// The name of a type without the paths of its modules, such as `Order` or `Vec<Order>`: the
/// two sides rarely keep a type at the same path.
pub(crate) fn short_type_name<T>() -> String {
    let mut short = String::new();
    let mut segment_start = 0;
    let mut rest = type_name::<T>().chars().peekable();
    while let Some(c) = rest.next() {
        if c == ':' && rest.peek() == Some(&':') {
            rest.next();
            short.truncate(segment_start);
        } else {
            short.push(c);
            if !(c.is_alphanumeric() || c == '_') {
                segment_start = short.len();
            }
        }
    }
    short
}

/// The format, and the name of the type if there is one.
fn split(content_type: &str) -> (&str, Option<&str>) {
    let mut depth = 0_u32;
    // The name of a type may have a semicolon in it, as `[u8; 4]` has.
    let mut parts = content_type.split(|c| {
        match c {
            '[' | '(' | '<' => depth += 1,
            ']' | ')' | '>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ';' && depth == 0
    });
    let media = parts.next().unwrap_or_default().trim();
    (
        media,
        parts.find_map(|parameter| parameter.trim().strip_prefix("type=")),
    )
}

fn is<T: 'static, U: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<U>()
}

/// The bytes of a value that is bytes by itself.
#[inline]
pub(crate) fn as_bytes<T: 'static>(value: &T) -> Option<&[u8]> {
    let value = value as &dyn Any;
    match value.downcast_ref::<Bytes>() {
        Some(bytes) => Some(bytes),
        None => value.downcast_ref::<Vec<u8>>().map(Vec::as_slice),
    }
}

/// `value` as what it is known to be. The comparison of types is decided by the compiler.
fn cast<U: 'static, T: 'static>(value: U) -> Option<T> {
    let mut slot = Some(value);
    (&mut slot as &mut dyn Any)
        .downcast_mut::<Option<T>>()
        .and_then(Option::take)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        items: Vec<String>,
    }

    fn round_trip<T: Serialize + DeserializeOwned + 'static>(format: Format, value: &T) -> T {
        let bytes = encode(format, value, Bytes::copy_from_slice).unwrap();
        decode(format, &bytes, || bytes.clone()).unwrap()
    }

    #[test]
    fn values_survive_each_format() {
        let order = Order {
            id: 7,
            items: vec!["tea".to_owned()],
        };
        assert_eq!(round_trip(Format::Postcard, &order), order);
        assert_eq!(round_trip(Format::Json, &order), order);
        let raw = Bytes::from_static(b"as they are");
        assert_eq!(round_trip(Format::of::<Bytes>(), &raw), raw);
        assert_eq!(round_trip(Format::of::<Vec<u8>>(), &raw.to_vec()), raw);
    }

    #[test]
    fn bytes_of_another_shape_are_an_error_that_names_the_type() {
        let error = decode::<Order>(Format::Json, b"[1]", Bytes::new).unwrap_err();
        assert!(error.to_string().contains("Order"), "{error}");
        let error = decode::<u8>(Format::Postcard, &[1, 2], Bytes::new).unwrap_err();
        assert!(error.to_string().contains("left over"), "{error}");
    }

    #[test]
    fn a_content_type_names_the_type_without_its_modules() {
        assert_eq!(
            Format::Postcard.content_type::<Order>(),
            "postcard; type=Order"
        );
        assert_eq!(
            Format::Json.content_type::<Vec<Option<Order>>>(),
            "application/json; type=Vec<Option<Order>>"
        );
        assert_eq!(Format::Raw.content_type::<Raw>(), "");
        assert_eq!(Format::Json.content_type::<serde_json::Value>(), JSON);
        assert_eq!(
            short_type_name::<(Order, [Order; 2])>(),
            "(Order, [Order; 2])"
        );
    }

    #[test]
    fn a_type_reads_only_what_fits_it() {
        let json = Format::Json.content_type::<Order>();
        let postcard = Format::Postcard.content_type::<Order>();
        for (format, wanted, found, fits) in [
            (Format::Postcard, &*postcard, &*postcard, true),
            (Format::Postcard, &postcard, "postcard; type=Invoice", false),
            (Format::Postcard, &postcard, &json, false),
            (Format::Postcard, &postcard, "", false),
            (Format::Json, &json, "application/json", true),
            (Format::Json, &json, "application/json; type=Invoice", false),
            (Format::Json, &json, "", true),
            (Format::Json, &json, OCTET_STREAM, true),
            (Format::Json, &json, &postcard, false),
            (Format::Json, JSON, &json, true),
            (
                Format::Json,
                &json,
                "application/json; type=Order; charset=utf-8",
                true,
            ),
            (
                Format::Postcard,
                "postcard; type=([u8; 4], u32)",
                "postcard; type=([u8; 4], i32)",
                false,
            ),
            (
                Format::Postcard,
                "postcard; type=[u8; 4]",
                "postcard;type=[u8; 4]",
                true,
            ),
            (Format::Raw, "", &postcard, true),
        ] {
            assert_eq!(
                format.reads(wanted, found),
                fits,
                "{wanted:?} reads {found:?}"
            );
        }
    }
}
