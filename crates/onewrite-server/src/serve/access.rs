//! Who may do what: bearer tokens with roles.

use std::{fmt, net::IpAddr, time::SystemTime};

use axum::http::{HeaderMap, StatusCode, header};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use onewrite::{Code, Error, Result, Text};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;

/// Bytes that a token has at least: fewer can be guessed.
const TOKEN_MIN: usize = 16;

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Look at sagas.
    Read,
    /// Start sagas, and send signals.
    Start,
    /// Cancel and resume them.
    Steer,
    /// Say that a step can be looked at.
    Tell,
}

/// Who somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// May look.
    Reader,
    /// May start, send signals and look.
    Starter,
    /// May say that its work has ended, and nothing else.
    Participant,
    /// May do everything.
    Operator,
}

impl Role {
    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "reader" => Self::Reader,
            "starter" => Self::Starter,
            "participant" => Self::Participant,
            "operator" => Self::Operator,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Starter => "starter",
            Self::Participant => "participant",
            Self::Operator => "operator",
        }
    }

    fn may(self, right: Right) -> bool {
        match self {
            Self::Reader => right == Right::Read,
            Self::Starter => matches!(right, Right::Read | Right::Start),
            Self::Participant => right == Right::Tell,
            Self::Operator => true,
        }
    }
}

/// Somebody who has a token.
#[derive(Debug, Clone)]
struct Holder {
    name: Text,
    role: Role,
    digest: [u8; 32],
    /// Until when it counts.
    until: Option<SystemTime>,
}

/// Who it is, and never the token.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role.as_str())?;
        match self.until {
            Some(until) => write!(f, " until {}", humantime::format_rfc3339_seconds(until)),
            None => Ok(()),
        }
    }
}

/// Who may do what. Without tokens, everybody who reaches this process may do everything.
#[derive(Debug, Default)]
pub(crate) struct Access {
    holders: Vec<Holder>,
}

impl Access {
    /// Reads `NAME:ROLE=VARIABLE` or `NAME:ROLE=VARIABLE@TIME`: the environment variable holds the token, which
    /// counts until that time.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when it cannot be read, or the variable holds no token of at least 16 bytes.
    pub(crate) fn new(tokens: &[String]) -> Result<Self> {
        let holders = tokens.iter().map(|text| holder(text)).collect::<Result<Vec<_>>>()?;
        for (place, one) in holders.iter().enumerate() {
            if let Some(other) = holders[..place].iter().find(|other| other.digest == one.digest) {
                let what = format!("{} and {} have the same token", other.name, one.name);
                return Err(Error::new(Code::InvalidConfig, what));
            }
        }
        Ok(Self { holders })
    }

    /// Says whose token has expired already.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when all have: nobody could do anything.
    pub(super) fn check_expired(&self, now: SystemTime) -> Result<()> {
        let expired = |holder: &&Holder| holder.until.is_some_and(|until| until <= now);
        let expired: Vec<String> =
            self.holders.iter().filter(expired).map(ToString::to_string).collect();
        if !expired.is_empty() && expired.len() == self.holders.len() {
            let what = format!("every token has expired: {}", expired.join(", "));
            return Err(Error::new(Code::InvalidConfig, what)
                .with_source("nobody could ask this server for anything"));
        }
        for holder in expired {
            tracing::warn!("a token has expired, and opens nothing: {holder}");
        }
        Ok(())
    }

    /// Whether nobody needs a token.
    pub(crate) fn is_open(&self) -> bool {
        self.holders.is_empty()
    }

    /// Refuses what a page in a browser may send to this machine without being asked: where nobody needs a token, the
    /// address that was called and who calls are all there is to tell it by.
    pub(super) fn check_caller(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !self.is_open() {
            return Ok(());
        }
        // Every browser names the host that it calls; what asks a server whether it is well may not.
        let host = headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
        let host = host.unwrap_or("localhost");
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.chars().all(|c| c.is_ascii_digit()) { name } else { host }
        });
        let is_local = name.eq_ignore_ascii_case("localhost")
            || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_local || headers.contains_key(header::ORIGIN) {
            let what = "without tokens only programs of this machine may ask, by a loopback address and not from a browser";
            return Err(Problem::new(StatusCode::FORBIDDEN, Code::Denied, what));
        }
        Ok(())
    }

    /// The name of whoever sent this request, if they may do this; none where nobody needs a token.
    pub(super) fn check(&self, headers: &HeaderMap, right: Right) -> Result<Option<Text>, Problem> {
        if self.is_open() {
            return Ok(None);
        }
        let refused = |status, what| Err(Problem::new(status, Code::Denied, what));
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = token.and_then(shown) else {
            return refused(StatusCode::UNAUTHORIZED, "a bearer token is needed");
        };
        // What is compared are digests: how long that takes says nothing of a token.
        let digest: [u8; 32] = Sha256::digest(token).into();
        let Some(holder) = self.holders.iter().find(|holder| holder.digest == digest) else {
            return refused(StatusCode::UNAUTHORIZED, "the token is not known");
        };
        if holder.until.is_some_and(|until| until <= SystemTime::now()) {
            return refused(StatusCode::UNAUTHORIZED, "the token has expired");
        }
        if !holder.role.may(right) {
            return refused(StatusCode::FORBIDDEN, "the token is of a role that may not do this");
        }
        Ok(Some(holder.name.clone()))
    }
}

/// The token that a request shows: as a bearer's, or as the password of anybody, for clients that can be told no
/// more than a URL.
fn shown(authorization: &str) -> Option<String> {
    let (scheme, shown) = authorization.split_once(' ')?;
    let shown = shown.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(shown.to_owned());
    }
    let pair = BASE64.decode(shown).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let pair = String::from_utf8(pair).ok()?;
    pair.split_once(':').map(|(_, token)| token.to_owned())
}

fn holder(text: &str) -> Result<Holder> {
    let invalid = |what: String| Error::new(Code::InvalidConfig, what);
    // What was given may be the token itself: it is not repeated.
    let shape = || {
        let what = "a token is given as NAME:ROLE=VARIABLE or NAME:ROLE=VARIABLE@TIME, with the role reader, starter, participant or operator, and a time such as 2027-01-31T00:00:00Z";
        invalid(what.into())
    };
    let (who, variable) = text.split_once('=').ok_or_else(shape)?;
    let (name, role) = who.split_once(':').ok_or_else(shape)?;
    let role = Role::read(role).ok_or_else(shape)?;
    let (variable, until) = match variable.split_once('@') {
        Some((variable, time)) => {
            (variable, Some(humantime::parse_rfc3339(time).map_err(|_| shape())?))
        }
        None => (variable, None),
    };
    if name.is_empty() || variable.is_empty() {
        return Err(shape());
    }
    let token = std::env::var(variable)
        .map_err(|_| invalid(format!("the environment variable {variable} holds no token")))?;
    let token = token.trim();
    if token.len() < TOKEN_MIN {
        let what = format!("the token in {variable} has fewer than {TOKEN_MIN} bytes");
        return Err(invalid(what));
    }
    Ok(Holder { name: name.to_owned().into(), role, digest: Sha256::digest(token).into(), until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_its_own() {
        let rights = [Right::Read, Right::Start, Right::Steer, Right::Tell];
        for (role, may) in [
            ("reader", [true, false, false, false]),
            ("starter", [true, true, false, false]),
            ("participant", [false, false, false, true]),
            ("operator", [true, true, true, true]),
        ] {
            assert_eq!(rights.map(|right| Role::read(role).unwrap().may(right)), may, "{role}");
        }
    }

    #[test]
    fn a_token_counts_until_its_time() {
        let token = "a-token-of-some-length";
        let of = |until| {
            let (name, digest) = ("ann".into(), Sha256::digest(token).into());
            Access { holders: vec![Holder { name, role: Role::Reader, digest, until }] }
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let hour = std::time::Duration::from_secs(3_600);
        let now = SystemTime::now();
        assert!(of(Some(now + hour)).check(&headers, Right::Read).is_ok());
        assert!(of(Some(now - hour)).check(&headers, Right::Read).is_err());
        assert!(of(None).check(&headers, Right::Start).is_err());
        let basic = format!("Basic {}", BASE64.encode(format!("anybody:{token}")));
        headers.insert(header::AUTHORIZATION, basic.parse().unwrap());
        assert!(of(None).check(&headers, Right::Read).is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_repeated() {
        for bad in ["token", "ann=TOKEN", "ann:boss=TOKEN", ":reader=TOKEN", "ann:reader=PATH@soon"]
        {
            let error = holder(bad).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig, "{bad}");
        }
    }
}
