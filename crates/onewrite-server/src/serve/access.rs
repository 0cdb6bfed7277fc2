//! Who may do what: bearer tokens with roles.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};
use onewrite::{Code, Error, Result, Text};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;

/// Bytes that a token has at least: fewer can be guessed.
const TOKEN_MIN: usize = 16;

/// What somebody may do; each includes what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Look at sagas.
    Reader,
    /// Start sagas, and send signals.
    Starter,
    /// Cancel and resume them.
    Operator,
}

/// Somebody who has a token.
#[derive(Debug, Clone)]
struct Holder {
    name: Text,
    role: Role,
    digest: [u8; 32],
}

/// Who may do what. Without tokens, everybody who reaches this process may do everything.
#[derive(Debug, Default)]
pub(crate) struct Access {
    holders: Vec<Holder>,
}

impl Access {
    /// Reads `NAME:ROLE=VARIABLE`: the environment variable holds the token.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when it cannot be read, or the variable holds no token of at least 16 bytes.
    pub(crate) fn new(tokens: &[String]) -> Result<Self> {
        let holders = tokens.iter().map(|text| holder(text)).collect::<Result<_>>()?;
        Ok(Self { holders })
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
        let host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
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

    /// The name of whoever sent this request, if they have at least this role; none where nobody needs a token.
    pub(super) fn check(&self, headers: &HeaderMap, role: Role) -> Result<Option<Text>, Problem> {
        if self.is_open() {
            return Ok(None);
        }
        let refused = |status, what| Err(Problem::new(status, Code::Denied, what));
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = |value: &'_ str| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        };
        let Some(token) = token.and_then(bearer) else {
            return refused(StatusCode::UNAUTHORIZED, "a bearer token is needed");
        };
        // What is compared are digests: how long that takes says nothing of a token.
        let digest: [u8; 32] = Sha256::digest(token).into();
        let Some(holder) = self.holders.iter().find(|holder| holder.digest == digest) else {
            return refused(StatusCode::UNAUTHORIZED, "the token is not known");
        };
        if holder.role < role {
            return refused(StatusCode::FORBIDDEN, "the token is of a role that may not do this");
        }
        Ok(Some(holder.name.clone()))
    }
}

fn holder(text: &str) -> Result<Holder> {
    let invalid = |what: String| Error::new(Code::InvalidConfig, what);
    // What was given may be the token itself: it is not repeated.
    let shape = || {
        invalid(
            "a token is given as NAME:ROLE=VARIABLE with the role reader, starter or operator"
                .into(),
        )
    };
    let (who, variable) = text.split_once('=').ok_or_else(shape)?;
    let (name, role) = who.split_once(':').ok_or_else(shape)?;
    let role = match role {
        "reader" => Role::Reader,
        "starter" => Role::Starter,
        "operator" => Role::Operator,
        _ => return Err(shape()),
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
    Ok(Holder { name: name.to_owned().into(), role, digest: Sha256::digest(token).into() })
}
