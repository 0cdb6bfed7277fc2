//! Steps that carry nothing out, and wait: for a time, or for a signal.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Json, Mapping, REQUEST, SagaId};
use crate::{Code, Error, Result, Text};

/// What a step waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Wait {
    /// For so many milliseconds from when the steps before it are done. It answers `null`.
    ForMs(u64),
    /// For a signal, at most for the step's timeout. It answers what the signal brings.
    Signal {
        /// What the signal is called.
        name: String,
        /// What it has to be about: the text, number or truth value found here.
        correlation: Mapping,
    },
}

/// Characters that the name, the correlation and the id of a signal may have: what every store can index.
pub const SIGNAL_TEXT_MAX: usize = 255;

/// How long a signal that nobody waits for is kept, unless it says otherwise.
const KEEP_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

const KEEP_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Something that happened outside, for the saga that waits for it, now or later.
///
/// It is taken by one step of one saga, however often it is sent: of those that wait for its name and
/// correlation, by the first that comes to it. Until then it is kept, for as long as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The same for every repetition: what makes sending it twice harmless.
    pub id: Text,
    /// What it is called.
    pub name: Text,
    /// What it is about: an order's id, say.
    pub correlation: Text,
    /// What it brings: the output of the step that waits for it.
    pub payload: Json,
    /// How long it is kept, by the store's clock: it is there for nobody once that is over, so at once where it
    /// is zero. Its id is remembered as long, taken or not.
    pub keep: Duration,
}

impl Signal {
    /// A signal that brings nothing and is kept for a day. `id` identifies it: that of the event or request
    /// that brought it.
    pub fn new(id: impl Into<Text>, name: impl Into<Text>, correlation: impl Into<Text>) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            correlation: correlation.into(),
            payload: Json::NULL,
            keep: KEEP_DEFAULT,
        }
    }

    /// What it brings.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when `payload` has no JSON form.
    pub fn payload<T: Serialize + ?Sized>(self, payload: &T) -> Result<Self> {
        Ok(Self { payload: Json::of(payload, "the signal's payload")?, ..self })
    }

    /// How long it is kept.
    #[must_use]
    pub fn keep(self, keep: Duration) -> Self {
        Self { keep, ..self }
    }

    /// How long it is kept: a hundred years at most, for no store counts for ever.
    #[must_use]
    pub fn kept(&self) -> Duration {
        self.keep.min(KEEP_MAX)
    }

    /// Looks through it.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] with what is wrong.
    pub fn check(&self) -> Result<()> {
        let texts = [("id", &self.id), ("name", &self.name), ("correlation", &self.correlation)];
        for (what, text) in texts {
            if let Err(why) = check_text(text) {
                return Err(Error::new(
                    Code::InvalidInput,
                    format!("the {what} of a signal {why}"),
                ));
            }
        }
        if self.name == REQUEST && self.correlation.parse::<SagaId>().is_err() {
            let what = format!("a signal of the name `{REQUEST}` is about a saga, by its id");
            return Err(Error::new(Code::InvalidInput, what));
        }
        Ok(())
    }
}

/// The text that a correlation's value stands for.
pub(super) fn correlation_of(value: &Json) -> Result<Text, String> {
    let value: serde_json::Value =
        value.read("a correlation").map_err(|error| error.to_string())?;
    let text: Text = match value {
        serde_json::Value::String(text) => text.into(),
        scalar @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
            scalar.to_string().into()
        }
        _ => return Err("is no text, number or truth value".into()),
    };
    check_text(&text)?;
    Ok(text)
}

/// What every store can keep and index: the key of a saga, and what a signal is known by.
///
/// # Errors
/// What is wrong with it.
pub fn check_text(text: &str) -> Result<(), String> {
    if text.is_empty() || text.chars().count() > SIGNAL_TEXT_MAX {
        return Err(format!("has not 1 to {SIGNAL_TEXT_MAX} characters"));
    }
    if text.contains('\0') {
        return Err("has a NUL character".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correlation_is_a_scalar() {
        let of = |text| correlation_of(&Json::trusted(text));
        assert_eq!(of(r#""o-1""#).unwrap(), "o-1");
        assert_eq!(of("17").unwrap(), "17");
        assert_eq!(of("true").unwrap(), "true");
        for bad in ["null", "[1]", "{}", r#""""#] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(r#""a\u0000b""#).is_err(), "not every store keeps a NUL character");
        assert!(of_long(256).is_err());
        assert!(of_long(255).is_ok());
    }

    fn of_long(count: usize) -> Result<Text, String> {
        correlation_of(&Json::of(&"é".repeat(count), "a text").unwrap())
    }

    #[test]
    fn a_wait_reads_as_it_is_written() {
        for json in [r#"{"for_ms":5}"#, r#"{"signal":{"name":"paid","correlation":"/input/id"}}"#] {
            let wait: Wait = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&wait).unwrap(), json);
        }
    }

    #[test]
    fn a_signal_without_a_name_or_with_a_long_one_is_refused() {
        assert!(Signal::new("1", "paid", "o-1").check().is_ok());
        assert!(Signal::new("", "paid", "o-1").check().is_err());
        assert!(Signal::new("1", "p".repeat(256), "o-1").check().is_err());
    }

    #[test]
    fn a_signal_with_a_nul_character_is_refused() {
        for [id, name, correlation] in
            [["\0", "paid", "o-1"], ["1", "pa\0id", "o-1"], ["1", "paid", "o-1\0"]]
        {
            let refused = Signal::new(id, name, correlation).check().unwrap_err();
            assert_eq!(refused.code(), Code::InvalidInput);
        }
    }

    #[test]
    fn a_request_is_about_a_saga_and_nothing_is_kept_for_ever() {
        let request = |about: &'static str| Signal::new("r-1", REQUEST, about);
        assert!(request("order-1").check().is_err(), "stores look for a saga of this id");
        assert!(request("00000000-0000-0000-0000-000000000001").check().is_ok());
        assert!(request("1").keep(Duration::MAX).kept() <= KEEP_MAX);
    }
}
