//! Signatures by the Standard Webhooks scheme (<https://www.standardwebhooks.com>): HMAC-SHA256 over
//! `id.timestamp.body`, so that a receiver in any language checks them with an existing library.
//!
//! The sender signs with every secret it has and the receiver takes any that matches: a secret is
//! replaced by adding the new one on both sides first and removing the old one last.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use onewrite_core::{Code, Error, Result};
use sha2::Sha256;

/// The header with the id of the request: the same when it is sent again.
pub const ID: &str = "webhook-id";
/// The header with the time of signing, in seconds since 1970.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, one for each secret.
pub const SIGNATURE: &str = "webhook-signature";

/// How far the clocks of sender and receiver may be apart, in seconds.
pub const TOLERANCE_SECONDS: i64 = 5 * 60;

/// The least length of a secret, in bytes.
const SECRET_BYTES_MIN: usize = 24;

/// A shared secret, written `whsec_` and base64. It is never printed.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl FromStr for Secret {
    type Err = Error;

    /// Reads a secret.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when it lacks the prefix, is not base64, or is shorter than 24 bytes.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::new(Code::InvalidConfig, format!("a secret {why}"));
        let text = text.strip_prefix("whsec_").ok_or_else(|| invalid("begins with `whsec_`"))?;
        let key = STANDARD.decode(text).map_err(|_| invalid("is base64 after its prefix"))?;
        if key.len() < SECRET_BYTES_MIN {
            return Err(invalid("has 24 bytes at least"));
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|_| invalid("has a length that no key has"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }
}

/// The value of the signature header: one signature for each of `secrets`. `timestamp` is in seconds
/// since 1970.
#[must_use]
pub fn sign(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let timestamp = timestamp.to_string();
    let mut out = String::with_capacity(secrets.len() * 48);
    for secret in secrets {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str("v1,");
        STANDARD.encode_string(secret.mac(id, &timestamp, body).finalize().into_bytes(), &mut out);
    }
    out
}

/// What a request says about its signature: the values of the three headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signed<'a> {
    /// The value of [`ID`].
    pub id: Option<&'a str>,
    /// The value of [`TIMESTAMP`].
    pub timestamp: Option<&'a str>,
    /// The value of [`SIGNATURE`].
    pub signature: Option<&'a str>,
}

/// Checks that one of `secrets` signed `body` within five minutes of `now_seconds` (since 1970). The
/// time it takes does not depend on how much of a signature matches.
///
/// # Errors
/// [`Code::BadSignature`], saying what is wrong without any value.
pub fn verify(secrets: &[Secret], signed: Signed<'_>, body: &[u8], now_seconds: i64) -> Result<()> {
    let bad = |why: &str| Error::new(Code::BadSignature, why);
    let Signed { id: Some(id), timestamp: Some(timestamp), signature: Some(signature) } = signed
    else {
        return Err(bad("the request is not signed"));
    };
    let seconds: i64 = timestamp.parse().map_err(|_| bad("the timestamp is not a number"))?;
    if now_seconds.saturating_sub(seconds).saturating_abs() > TOLERANCE_SECONDS {
        return Err(bad("the request was signed more than five minutes from now"));
    }
    // Other versions may stand beside ours; they are passed over.
    let given = signature.split(' ').filter_map(|one| one.strip_prefix("v1,"));
    for given in given.filter_map(|given| STANDARD.decode(given).ok()) {
        let matches =
            |secret: &Secret| secret.mac(id, timestamp, body).verify_slice(&given).is_ok();
        if secrets.iter().any(matches) {
            return Ok(());
        }
    }
    Err(bad("no signature matches"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"test\": 2432232314}";
    const AT: i64 = 1_614_265_330;
    const ID_GIVEN: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const PUBLISHED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret(text: &str) -> Secret {
        text.parse().unwrap()
    }

    fn published() -> Secret {
        secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    }

    fn other() -> Secret {
        secret("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
    }

    fn check(secrets: &[Secret], timestamp: &str, signature: &str, now: i64) -> Result<()> {
        let (id, timestamp, signature) = (Some(ID_GIVEN), Some(timestamp), Some(signature));
        verify(secrets, Signed { id, timestamp, signature }, BODY, now)
    }

    #[test]
    fn signs_like_the_published_example() {
        assert_eq!(sign(&[published()], ID_GIVEN, AT, BODY), PUBLISHED);
        let both = sign(&[other(), published()], ID_GIVEN, AT, BODY);
        assert!(both.ends_with(PUBLISHED) && both.matches("v1,").count() == 2);
    }

    #[test]
    fn any_secret_may_match_any_signature() {
        let now = AT.to_string();
        assert!(check(&[published()], &now, PUBLISHED, AT).is_ok());
        assert!(check(&[other(), published()], &now, PUBLISHED, AT).is_ok());
        let mixed = format!("v1a,xyz v1,AAAA {PUBLISHED}");
        assert!(check(&[published()], &now, &mixed, AT).is_ok());
        assert!(check(&[other()], &now, PUBLISHED, AT).is_err());
        assert!(check(&[], &now, PUBLISHED, AT).is_err());
    }

    #[test]
    fn refuses_what_is_old_or_early_or_missing() {
        let now = AT.to_string();
        for (at, good) in [(300, true), (301, false), (-300, true), (-301, false)] {
            assert_eq!(check(&[published()], &now, PUBLISHED, AT + at).is_ok(), good, "{at}");
        }
        assert!(check(&[published()], "soon", PUBLISHED, AT).is_err());
        assert!(check(&[published()], &now, "", AT).is_err());
        let error = verify(&[published()], Signed::default(), BODY, AT).unwrap_err();
        assert_eq!(error.code(), Code::BadSignature);
    }

    #[test]
    fn a_secret_is_long_enough_and_never_printed() {
        for bad in ["", "whsec_", "whsec_c2hvcnQ=", "whsec_!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert_eq!(bad.parse::<Secret>().unwrap_err().code(), Code::InvalidConfig, "{bad}");
        }
        assert_eq!(format!("{:?}", published()), "Secret");
    }
}
