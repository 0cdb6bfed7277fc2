//! What failed, as a problem (RFC 9457).

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use onewrite::{
    Code, Error,
    error::{Certainty, Retry},
    saga::Flaw,
};
use serde_json::json;

/// An answer that says what failed, and what to do about it.
pub(super) struct Problem {
    status: StatusCode,
    error: Error,
    /// What is wrong with the definition of a saga.
    flaws: Vec<Flaw>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: Code, what: impl Into<String>) -> Self {
        Self { status, error: Error::new(code, what), flaws: Vec::new() }
    }

    /// With what to do about it, where that is known better than of its code.
    pub(super) fn with_cure(self, cure: &'static str) -> Self {
        Self { error: self.error.with_cure(cure), ..self }
    }

    /// With the places in the definition.
    pub(super) fn at(self, flaws: Vec<Flaw>) -> Self {
        Self { flaws, ..self }
    }
}

/// What a problem says, for whoever logs it.
#[derive(Debug, Clone)]
pub(super) struct Refused(pub(super) String);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match error.code() {
            Code::InvalidInput
            | Code::InvalidSaga
            | Code::UnknownParticipant
            | Code::PrivateAddress => StatusCode::UNPROCESSABLE_ENTITY,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::SagaExists | Code::WrongState => StatusCode::CONFLICT,
            Code::InvalidConfig => StatusCode::UNPROCESSABLE_ENTITY,
            _ if error.certainty() == Certainty::Unknown && error.retry() != Retry::Never => {
                StatusCode::GATEWAY_TIMEOUT
            }
            _ if error.retry() != Retry::Never => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error, flaws: Vec::new() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, error, flaws } = self;
        let code = error.code();
        if status.is_server_error() {
            tracing::warn!(%error, "a request failed");
        }
        let mut cause = std::error::Error::source(&error);
        let mut detail = error.context().to_owned();
        while let Some(inner) = cause {
            detail.push_str(": ");
            detail.push_str(&inner.to_string());
            cause = inner.source();
        }
        let mut body = json!({
            "type": format!("urn:onewrite:error:{code}"),
            "title": error.cure(),
            "status": status.as_u16(),
            "detail": &detail,
            "code": code.as_str(),
        });
        if !flaws.is_empty() {
            let error = |flaw: &Flaw| json!({"pointer": format!("/definition{}", flaw.at), "detail": flaw.what});
            body["errors"] = flaws.iter().map(error).collect();
        }
        let mut response = (status, body.to_string()).into_response();
        response.extensions_mut().insert(Refused(detail));
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
