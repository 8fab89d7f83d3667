//! Images of a web server: one that is fetched again and again, or a stream of them (MJPEG).
//!
//! Which of the two an address gives, its `Content-Type` says. While nothing comes the server is called again after pauses
//! that grow.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode, header};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    newest::Newest,
    outage::Outage,
    parts::{Parts, PartsError, is_image},
};
use crate::{
    camera::Frame,
    config::UrlConfig,
    metrics::Metrics,
    power::Power,
    web::{Access, Server, WebError, failure},
};

/// How often a call may be sent elsewhere.
const REDIRECTS: usize = 5;
/// From one image to the next, where the configuration does not say.
const EVERY: Duration = Duration::from_secs(1);

/// An address that gives images.
pub(super) struct Camera {
    server: Server,
    every: Option<Duration>,
    timeout: Duration,
    max_bytes: usize,
    newest: Newest,
    power: Power,
    outage: Outage,
}

/// Why no image came.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Call(String),
    #[error("no image came within `timeout_ms`")]
    Slow,
    #[error("it answered {status}{}", advice(*status, *is_shown_secrets))]
    Status {
        status: StatusCode,
        is_shown_secrets: bool,
    },
    #[error(
        "it gave {0:?}, which is no image: give the address of an image or of a stream of images"
    )]
    NoImage(String),
    #[error(
        "the image has more than {0} bytes: let the camera give smaller ones, or raise `images.max_bytes`"
    )]
    TooLarge(usize),
    #[error(transparent)]
    Stream(#[from] PartsError),
}

impl Camera {
    pub(super) fn new(
        config: &UrlConfig,
        max_bytes: usize,
        newest: Newest,
        metrics: Metrics,
        power: Power,
    ) -> Result<Self, WebError> {
        let server = server(config)?;
        Ok(Self {
            outage: Outage::new(&config.name, server.name(), metrics),
            server,
            every: config.every_ms.map(Duration::from_millis),
            timeout: Duration::from_millis(config.timeout_ms),
            max_bytes,
            newest,
            power,
        })
    }

    /// Fetches images; never ends.
    pub(super) async fn watch(mut self) {
        loop {
            let next = Instant::now() + self.every.unwrap_or(EVERY) * self.power.slowdown();
            match self.visit().await {
                Ok(()) => sleep_until(next).await,
                Err(failure) => {
                    let pause = self.outage.failed(&failure.to_string());
                    sleep(pause).await;
                }
            }
        }
    }

    /// Fetches one image, or all of a stream.
    async fn visit(&mut self) -> Result<(), Failure> {
        let call = self.server.call(Method::GET);
        let response = timeout(self.timeout, call)
            .await
            .map_err(|_| Failure::Slow)?;
        let response = response.map_err(|error| Failure::Call(failure(error)))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(Failure::Status {
                status,
                is_shown_secrets: self.server.is_shown_secrets(),
            });
        }
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
        match content_type.map(|value| value.into_owned()) {
            Some(of) if of.to_ascii_lowercase().starts_with("multipart/") => {
                let parts = Parts::new(&of, self.max_bytes)?;
                self.stream(response, parts).await
            }
            Some(of) if !is_image(of.as_bytes()) => Err(Failure::NoImage(of)),
            _ => self.image(response).await,
        }
    }

    async fn image(&mut self, mut response: Response) -> Result<(), Failure> {
        let mut image = Vec::new();
        let read = async {
            while let Some(piece) = chunk(&mut response).await? {
                if image.len() + piece.len() > self.max_bytes {
                    return Err(Failure::TooLarge(self.max_bytes));
                }
                image.extend_from_slice(&piece);
            }
            Ok(())
        };
        timeout(self.timeout, read)
            .await
            .map_err(|_| Failure::Slow)??;
        self.outage.came();
        self.newest.put(Frame::Encoded(image.into()));
        Ok(())
    }

    async fn stream(&mut self, mut response: Response, mut parts: Parts) -> Result<(), Failure> {
        let every = self.every.unwrap_or_default();
        let mut next = Instant::now();
        loop {
            let image = async {
                loop {
                    if let Some(image) = parts.next()? {
                        return Ok::<_, Failure>(image);
                    }
                    let piece = chunk(&mut response).await?.ok_or(PartsError::End)?;
                    parts.push(&piece);
                }
            };
            let image = timeout(self.timeout, image)
                .await
                .map_err(|_| Failure::Slow)??;
            self.outage.came();
            let now = Instant::now();
            if now >= next {
                self.newest.put(Frame::Encoded(image));
                next = (next + every * self.power.slowdown()).max(now);
            }
        }
    }
}

/// The server of an address, with what this device is known by; it is not called.
pub(super) fn server(config: &UrlConfig) -> Result<Server, WebError> {
    Server::new(Access {
        section: "urls",
        url: &config.url,
        token: config.token.as_deref(),
        username: config.username.as_deref(),
        password: config.password.as_deref(),
        certificate_authority: config.certificate_authority.as_deref(),
        plain_http: config.plain_http,
        timeout: Duration::from_millis(config.timeout_ms),
        redirects: REDIRECTS,
    })
}

async fn chunk(response: &mut Response) -> Result<Option<bytes::Bytes>, Failure> {
    let chunk = response.chunk().await;
    chunk.map_err(|error| Failure::Call(failure(error)))
}

fn advice(status: StatusCode, is_shown_secrets: bool) -> &'static str {
    match (status, is_shown_secrets) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, false) => {
            ": give the `token`, or `username` and `password`, that it knows"
        }
        (StatusCode::UNAUTHORIZED, true) => {
            ": it does not take the token or password that it is shown; a password is shown by Basic or Digest, nothing else"
        }
        (StatusCode::FORBIDDEN, true) => {
            ": who is named by the token or password that it is shown may not have this"
        }
        (StatusCode::NOT_FOUND, _) => ": see the path in `url`",
        _ => "",
    }
}
