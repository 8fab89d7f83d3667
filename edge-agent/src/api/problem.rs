//! Errors, as RFC 9457 has them.

use std::borrow::Cow;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// Seconds after which one may ask again who was told to come back.
const RETRY_AFTER: &str = "1";

/// Why a call has no answer, and what to do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// The status's own words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What is wrong here, and what to do.
    detail: Cow<'static, str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Json(self);
        let headers = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, headers, body).into_response();
        let more = match status {
            StatusCode::SERVICE_UNAVAILABLE => (header::RETRY_AFTER, RETRY_AFTER),
            StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer"),
            _ => return response,
        };
        let value = axum::http::HeaderValue::from_static(more.1);
        response.headers_mut().insert(more.0, value);
        response
    }
}
