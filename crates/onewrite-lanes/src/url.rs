//! What the URLs of brokers have in common. Messages name the option, never a value.

use std::{str::FromStr, time::Duration};

use onewrite_core::{Code, Error, Result};

/// A refusal of a URL or of what it says.
pub fn invalid(context: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, context)
}

/// Reads an option that is a number, or `true` and `false`.
///
/// # Errors
/// [`Code::InvalidConfig`], naming the option.
pub fn number<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| invalid(format!("option `{name}` of a broker's URL cannot be read")))
}

/// Reads an option that is a time: a number of seconds, or what `humantime` reads (`90s`, `7d`).
///
/// # Errors
/// [`Code::InvalidConfig`], naming the option.
pub fn duration(name: &str, value: &str) -> Result<Duration> {
    if let Ok(seconds) = value.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(value)
        .map_err(|_| invalid(format!("option `{name}` of a broker's URL is not a time like `90s`")))
}

/// Undoes percent encoding.
///
/// # Errors
/// [`Code::InvalidConfig`].
pub fn decoded(text: &str) -> Result<String> {
    let bad = || invalid("a part of a broker's URL is not percent-encoded UTF-8");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = digit().zip(digit()).ok_or_else(bad)?;
        out.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(out).map_err(|_| bad())
}

/// Whether `name` can name a stream or a consumer anywhere: 1 to 200 letters, digits, `-` and `_`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_never_quoted() {
        assert_eq!(decoded("p%40s%c3%a4").unwrap(), "p@sä");
        assert_eq!(duration("ack_wait", "2m").unwrap(), Duration::from_secs(120));
        assert_eq!(duration("ack_wait", "7").unwrap(), Duration::from_secs(7));
        let bad = [
            decoded("secret%4").map(drop),
            decoded("%ffsecret").map(drop),
            duration("max_age", "secret").map(drop),
            number::<u16>("lanes", "secret").map(drop),
        ];
        for error in bad.map(Result::unwrap_err) {
            assert_eq!(error.code(), Code::InvalidConfig);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn names_are_plain() {
        assert!(is_name("orders-2_A") && is_name(&"x".repeat(200)));
        assert!(!["", "a.b", "a b", "{a}", "ä"].into_iter().any(is_name));
        assert!(!is_name(&"x".repeat(201)));
    }
}
