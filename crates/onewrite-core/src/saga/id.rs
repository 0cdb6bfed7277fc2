//! What a saga and its steps are called.

use std::{fmt, str::FromStr};

use crate::{Code, Error, Text};

/// One run of a saga: a UUID, of version 7 so that rows of new sagas stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SagaId(pub u128);

/// As UUIDs are printed: `01964b2e-7d1c-7a00-8000-0123456789ab`.
impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'-'; 36];
        let places = (0..36).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
        for (digit, place) in places.enumerate() {
            let value = (self.0 >> (124 - 4 * digit)) as usize & 0xf;
            text[place] = b"0123456789abcdef"[value];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for SagaId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let number = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok());
        number.flatten().map(Self).ok_or_else(|| {
            Error::new(Code::InvalidInput, format!("`{text}` is not the id of a saga (a UUID)"))
        })
    }
}

/// The idempotency key of one step's action or compensation: the same for every attempt, in every
/// process, so that the other side recognises a repetition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StepKey(Text);

impl StepKey {
    /// The key of a step's action.
    #[must_use]
    pub fn action(saga: SagaId, step: &str) -> Self {
        Self(format!("{saga}/{step}").into())
    }

    /// The key of a step's compensation.
    #[must_use]
    pub fn compensation(saga: SagaId, step: &str) -> Self {
        Self(format!("{saga}/{step}/compensation").into())
    }

    /// As text: at most 255 characters of ASCII for steps named in ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_printed_and_read_as_a_uuid() {
        let id = SagaId(0x0196_4b2e_7d1c_7a00_8000_0123_4567_89ab);
        assert_eq!(id.to_string(), "01964b2e-7d1c-7a00-8000-0123456789ab");
        assert_eq!(id.to_string().parse::<SagaId>().unwrap(), id);
        for bad in ["", "01964b2e", "z1964b2e-7d1c-7a00-8000-0123456789ab"] {
            assert!(bad.parse::<SagaId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_keys_of_action_and_compensation_differ() {
        let id = SagaId(1);
        let action = StepKey::action(id, "pay");
        assert_eq!(action.as_str(), "00000000-0000-0000-0000-000000000001/pay");
        assert_ne!(action, StepKey::compensation(id, "pay"));
    }
}
