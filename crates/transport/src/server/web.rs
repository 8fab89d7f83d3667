//! What browsers need: gRPC-Web, leave for pages of other origins to call, and word of HTTP/3.

use std::{convert::Infallible, fmt, str::FromStr, time::Duration};

use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::Scheme,
};
use serde::Deserialize;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn, util::Either};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::calls::{Calls, infallible};
use crate::{Protocol, RETRY_PUSHBACK};

/// The content types of gRPC-Web, whose messages travel as they are or, for `-text`, in Base64.
const GRPC_WEB: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];

/// Headers that a page of another origin may send.
const TAKEN: [&str; 8] = [
    "authorization",
    "content-type",
    "grpc-timeout",
    "traceparent",
    "tracestate",
    "x-accept-content-transfer-encoding",
    "x-grpc-web",
    "x-user-agent",
];

/// Headers that it may read beside those that every page may.
const SHOWN: [&str; 7] = [
    "date",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    RETRY_PUSHBACK,
    // Of a token that is not to be had now.
    "retry-after",
    "server-timing",
];

/// Lets a page read how its requests went, by [Resource Timing](https://www.w3.org/TR/resource-timing/).
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// How long a browser remembers that a page may call. Chromium remembers no longer.
const REMEMBERED: Duration = Duration::from_secs(7200);

/// How long a browser remembers that HTTP/3 is spoken, in seconds: a day, as the standard's default.
const ADVERTISED_SECONDS: u32 = 86_400;

/// How browsers are served: over HTTP/1.1 too, by gRPC-Web, and with what is no gRPC at all.
#[derive(Clone, Debug, Default)]
pub struct WebConfig {
    /// Origins whose pages may call beside those of the listener's own. Default: none.
    pub origins: Vec<Origin>,
    /// Where answers say that HTTP/3 is spoken. Default: at the listener's own port.
    pub alt_svc: AltSvc,
}

/// Where answers over TCP say, as `Alt-Svc`, that HTTP/3 is spoken, so that browsers change to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AltSvc {
    /// At the listener's port, where it serves HTTP/3.
    #[default]
    OwnPort,
    /// At another, which something in between leads to the listener's, where it serves HTTP/3.
    Port(u16),
    /// Nowhere.
    Silent,
}

/// An origin of pages, as browsers write it: `https://host` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin(String);

impl Origin {
    /// As it stands in the header `origin`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no origin of pages: write https://HOST or https://HOST:PORT, without a path")]
pub struct MalformedOrigin(String);

impl FromStr for Origin {
    type Err = MalformedOrigin;

    /// Reads an origin; its host may be in capitals and its port the scheme's own, which browsers leave out.
    fn from_str(text: &str) -> Result<Self, MalformedOrigin> {
        let refused = || MalformedOrigin(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(refused());
        };
        let own_port = match scheme {
            scheme if *scheme == Scheme::HTTPS => 443,
            scheme if *scheme == Scheme::HTTP => 80,
            _ => return Err(refused()),
        };
        let has_path = uri.path() != "/" || uri.query().is_some() || text.ends_with('/');
        let host = authority.host();
        if has_path || authority.as_str().contains('@') || host.is_empty() || host == "*" {
            return Err(refused());
        }
        let mut origin = format!("{scheme}://{}", host.to_ascii_lowercase());
        match authority.port_u16() {
            Some(port) if port != own_port => origin.push_str(&format!(":{port}")),
            Some(_) => {}
            // Something was written for a port, and is none.
            None if authority.as_str() != host => return Err(refused()),
            None => {}
        }
        Ok(Self(origin))
    }
}

impl TryFrom<String> for Origin {
    type Error = MalformedOrigin;

    fn try_from(text: String) -> Result<Self, MalformedOrigin> {
        text.parse()
    }
}

/// What a listener does for browsers.
#[derive(Clone, Debug)]
pub(super) struct Web {
    /// None where no page of another origin may call.
    cors: Option<CorsLayer>,
    alt_svc: Option<HeaderValue>,
}

impl Web {
    /// For a listener that serves HTTP/3 at a port, or does not.
    pub(super) fn new(config: &WebConfig, http3_port: Option<u16>) -> Self {
        let cors = (!config.origins.is_empty()).then(|| {
            let origins = config.origins.iter().map(|origin| {
                HeaderValue::from_str(origin.as_str()).expect("an origin is part of a URL")
            });
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(origins))
                .allow_methods([Method::GET, Method::HEAD, Method::POST])
                .allow_headers(TAKEN.map(HeaderName::from_static))
                .expose_headers(SHOWN.map(HeaderName::from_static))
                .max_age(REMEMBERED)
        });
        let port = http3_port.and_then(|own| match config.alt_svc {
            AltSvc::OwnPort => Some(own),
            AltSvc::Port(port) => Some(port),
            AltSvc::Silent => None,
        });
        let alt_svc = port.map(|port| {
            let value = format!("h3=\":{port}\"; ma={ADVERTISED_SECONDS}");
            HeaderValue::try_from(value).expect("a port is a number")
        });
        Self { cors, alt_svc }
    }

    /// Answers one call or request, for the page that it comes from.
    pub(super) async fn answer(&self, calls: Calls, request: Request<Body>) -> Response<Body> {
        let protocol = calls.protocol;
        let answered = service_fn(move |request| {
            let calls = calls.clone();
            async move { Ok::<_, Infallible>(answer_one(calls, request).await) }
        });
        let mut answered = match &self.cors {
            Some(cors) => Either::Left(cors.layer(answered)),
            None => Either::Right(answered),
        };
        let mut response = infallible(answered.call(request).await);
        // Who may read an answer may also know which protocol brought it.
        let headers = response.headers_mut();
        if let Some(origin) = headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned() {
            headers.insert(TIMING_ALLOW_ORIGIN, origin);
        }
        if let Some(alt_svc) = &self.alt_svc
            && protocol != Protocol::H3
        {
            let headers = response.headers_mut();
            headers.insert(header::ALT_SVC, alt_svc.clone());
        }
        response
    }
}

async fn answer_one(calls: Calls, request: Request<Body>) -> Response<Body> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map(HeaderValue::as_bytes).unwrap_or_default();
    if GRPC_WEB.iter().any(|kind| kind.as_bytes() == content_type) {
        let translated = GrpcWebLayer::new().layer(service_fn(move |request| {
            let calls = calls.clone();
            async move { Ok::<_, Infallible>(calls.answer_grpc(request).await) }
        }));
        infallible(translated.oneshot(request).await)
    } else if content_type.starts_with(b"application/grpc-web") {
        unsupported("of gRPC-Web, application/grpc-web+proto is spoken here\n")
    } else if !content_type.starts_with(b"application/grpc") {
        calls.answer_page(request).await
    } else if request.version() < Version::HTTP_2 {
        unsupported("gRPC needs HTTP/2 or HTTP/3; over HTTP/1.1 send application/grpc-web+proto\n")
    } else {
        calls.answer_grpc(request).await
    }
}

fn unsupported(message: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(message)));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_as_browsers_write_it() {
        for (text, origin) in [
            ("https://photos.example", "https://photos.example"),
            ("https://Photos.Example:443", "https://photos.example"),
            ("https://photos.example:8443", "https://photos.example:8443"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), origin);
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "*",
            "null",
            "photos.example",
            "https://",
            "https://*",
            "https://photos.example/",
            "https://photos.example/app",
            "https://photos.example?a",
            "https://photos.example:",
            "https://photos.example:99999",
            "https://a@photos.example",
            "ftp://photos.example",
        ] {
            let error = text.parse::<Origin>().unwrap_err();
            assert!(error.to_string().contains("https://HOST"), "{text}");
        }
    }

    #[test]
    fn http3_is_advertised_where_it_is_served_and_nowhere_else() {
        let says = |alt_svc, http3_port| {
            let config = WebConfig {
                origins: Vec::new(),
                alt_svc,
            };
            let value = Web::new(&config, http3_port).alt_svc?;
            Some(value.to_str().unwrap().to_owned())
        };
        let own = says(AltSvc::OwnPort, Some(8443)).unwrap();
        assert_eq!(own, "h3=\":8443\"; ma=86400");
        let other = says(AltSvc::Port(443), Some(8443)).unwrap();
        assert_eq!(other, "h3=\":443\"; ma=86400");
        assert_eq!(says(AltSvc::Silent, Some(8443)), None);
        for alt_svc in [AltSvc::OwnPort, AltSvc::Port(443)] {
            assert_eq!(says(alt_svc, None), None);
        }
    }
}
