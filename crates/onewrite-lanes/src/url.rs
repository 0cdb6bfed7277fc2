//! What the URLs of brokers have in common. Messages name the option, never a value.

use std::{net::IpAddr, str::FromStr, time::Duration};

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

/// Where a server is, and as whom to speak to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Authority {
    /// User and password, decoded.
    pub login: Option<(String, String)>,
    /// Its name or address; one of IPv6 without its brackets.
    pub host: String,
    /// Its port, if it is said.
    pub port: Option<u16>,
}

/// Reads `[user:password@]host[:port]`; an address of IPv6 stands in brackets. `None` when it is not so.
///
/// # Errors
/// [`Code::InvalidConfig`] for a user or password that is not percent-encoded.
pub fn authority(text: &str) -> Result<Option<Authority>> {
    let (login, address) = match text.rsplit_once('@') {
        Some((login, address)) => {
            let Some((user, password)) = login.split_once(':') else { return Ok(None) };
            (Some((decoded(user)?, decoded(password)?)), address)
        }
        None => (None, text),
    };
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest),
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    let port = match port {
        "" => Some(None),
        port => port.strip_prefix(':').and_then(|port| port.parse().ok()).map(Some),
    };
    let of_port = |port| Authority { login, host: host.to_owned(), port };
    Ok(port.filter(|_| !host.is_empty()).map(of_port))
}

/// Refuses a server that is not on loopback: what goes there in the clear is read by others.
/// `secure` is the scheme that means TLS.
///
/// # Errors
/// [`Code::UnsafeSetting`].
pub fn refuse_clear(host: &str, secure: &str) -> Result<()> {
    let is_loopback = |address: IpAddr| address.is_loopback();
    if host == "localhost" || host.parse().is_ok_and(is_loopback) {
        return Ok(());
    }
    let context = format!(
        "events and passwords for `{host}` would travel in the clear: use `{secure}`, or say `tls=off` where the network is yours"
    );
    Err(Error::new(Code::UnsafeSetting, context))
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
    fn an_authority_is_read() {
        let read = |text: &str| authority(text).unwrap();
        let plain = Authority { login: None, host: "a".into(), port: None };
        assert_eq!(read("a"), Some(plain));
        let whole = Authority {
            login: Some(("ann".into(), "p@s:s".into())),
            host: "::1".into(),
            port: Some(7),
        };
        assert_eq!(read("ann:p%40s:s@[::1]:7"), Some(whole));
        for bad in ["", ":7", "a:many", "secret@a", "[::1]x", "a:7:8"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_plain() {
        assert!(is_name("orders-2_A") && is_name(&"x".repeat(200)));
        assert!(!["", "a.b", "a b", "{a}", "ä"].into_iter().any(is_name));
        assert!(!is_name(&"x".repeat(201)));
    }
}
