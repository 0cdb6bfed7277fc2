//! JSON as it was given.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

use crate::{Code, Error, Result, Text};

/// Bytes that a value may have which a user gives: an input, an output, a signal's payload. It is copied into
/// every journal that it goes through.
pub const JSON_MAX: usize = 1 << 20;

/// A JSON value as text, never rewritten (re-encoding changes numbers and the order of keys). Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Text);

impl Json {
    /// `null`.
    pub const NULL: Self = Self(Text::from_static("null"));

    /// Takes text that is one JSON value.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when it is not, or has more than [`JSON_MAX`] bytes; `what` names it.
    pub fn parse(text: impl Into<Text>, what: &str) -> Result<Self> {
        let text = text.into();
        check_size(&text, what)?;
        match serde_json::from_str::<&RawValue>(&text) {
            Ok(_) => Ok(Self(text)),
            Err(error) => {
                Err(Error::new(Code::InvalidInput, format!("{what} is not JSON"))
                    .with_source(error))
            }
        }
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when `value` has no JSON form, or one of more than [`JSON_MAX`] bytes; `what`
    /// names it.
    pub fn of<T: Serialize + ?Sized>(value: &T, what: &str) -> Result<Self> {
        let text = serde_json::to_string(value).map_err(|error| {
            Error::new(Code::InvalidInput, format!("encode {what} as JSON")).with_source(error)
        })?;
        check_size(&text, what)?;
        Ok(Self(text.into()))
    }

    /// Takes text that this program wrote, and read back from its own tables.
    #[must_use]
    pub fn trusted(text: impl Into<Text>) -> Self {
        Self(text.into())
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when it has another shape; `what` names it.
    pub fn read<'de, T: Deserialize<'de>>(&'de self, what: &str) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|error| {
            Error::new(Code::InvalidInput, format!("{what} has another shape")).with_source(error)
        })
    }

    /// Refuses what has more than [`JSON_MAX`] bytes: what is put together from several values may.
    ///
    /// # Errors
    /// [`Code::InvalidInput`]; `what` names it.
    pub fn check(&self, what: &str) -> Result<()> {
        check_size(&self.0, what)
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_size(text: &str, what: &str) -> Result<()> {
    if text.len() <= JSON_MAX {
        return Ok(());
    }
    let found = text.len();
    let context = format!(
        "{what} has {found} bytes, and may have {JSON_MAX}: store the large part elsewhere and pass a reference"
    );
    Err(Error::new(Code::InvalidInput, context))
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads do not belong into logs.
        write!(f, "Json({} bytes)", self.0.len())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0)
            .map_err(ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer).map_err(de::Error::custom)?;
        Ok(Self(String::from(Box::<str>::from(raw)).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_is_refused_by_name() {
        let fits = "x".repeat(JSON_MAX - 2);
        assert_eq!(Json::of(&fits, "it").unwrap().as_str().len(), JSON_MAX);
        let error = Json::of(&format!("{fits}x"), "the step's output").unwrap_err();
        assert_eq!(error.code(), Code::InvalidInput);
        assert!(error.to_string().contains("the step's output has 1048577 bytes"), "{error}");
        assert!(Json::parse(format!("\"{fits}x\""), "it").is_err());
        assert!(Json::trusted(format!("[{fits}]")).check("it").is_ok());
        assert!(Json::trusted(format!("\"{fits}x\"")).check("it").is_err());
    }
}
