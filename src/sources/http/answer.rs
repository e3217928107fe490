//! What is said back.

use crate::{event::json::write_string, store::Refusal};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{
        ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
    },
};

pub(super) type Answer = Response<Full<Bytes>>;

/// A refusal, RFC 9457.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem { status, detail: detail.into(), headers: Vec::new() }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    pub fn unauthorized() -> Self {
        Problem::new(StatusCode::UNAUTHORIZED, "expected `Authorization: Bearer` with a token that is known here")
            .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    pub fn method() -> Self {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "events are taken with POST")
            .with(ALLOW, HeaderValue::from_static("POST"))
    }

    pub fn encoding() -> Self {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected no `Content-Encoding` but `gzip`")
            .with(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))
    }

    /// For a client that is cut off in the middle of its body.
    pub fn closing(self) -> Self {
        self.with(CONNECTION, HeaderValue::from_static("close"))
    }

    /// For what may work in so many seconds.
    pub fn after(status: StatusCode, seconds: u32, detail: impl Into<String>) -> Self {
        Problem::new(status, detail).with(RETRY_AFTER, seconds.into())
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn answer(self) -> Answer {
        let mut text = b"{\"type\":\"about:blank\",\"title\":".to_vec();
        write_string(self.status.canonical_reason().unwrap_or("Error"), &mut text);
        text.extend_from_slice(format!(",\"status\":{},\"detail\":", self.status.as_u16()).as_bytes());
        write_string(&self.detail, &mut text);
        text.push(b'}');
        let mut answer = response(self.status, "application/problem+json", text);
        answer.headers_mut().extend(self.headers);
        answer
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full => {
                let detail = "the store is full until something has been delivered; nothing was stored";
                Problem::after(StatusCode::TOO_MANY_REQUESTS, 10, detail)
            }
            Refusal::TooLarge { .. } => Problem::too_large(format!("{refusal}; nothing was stored")),
            Refusal::Failed(cause) => {
                let detail = format!("the events were not taken in: {cause}");
                Problem::after(StatusCode::SERVICE_UNAVAILABLE, 5, detail)
            }
            Refusal::Closed | Refusal::Moved => {
                let detail = "the gateway is stopping; nothing was stored";
                Problem::after(StatusCode::SERVICE_UNAVAILABLE, 5, detail).closing()
            }
        }
    }
}

/// 202: the events are on disk.
pub(super) fn accepted(text: Vec<u8>) -> Answer {
    response(StatusCode::ACCEPTED, "application/json", text)
}

fn response(status: StatusCode, media: &'static str, text: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
