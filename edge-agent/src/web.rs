//! Web servers that this program calls: those that take events, and those that give images.
//!
//! What is secret in an address stays out of logs and errors: a server is named by its scheme, host and port alone.
//!
//! A password is shown as Basic has it (RFC 7617), and to a server that asks for that as Digest does (RFC 7616).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_auth::{DigestClient, PasswordClient, PasswordParams, digest::Qop};
use outpost_engine::error_chain;
use outpost_transport::{BearerToken, Trust};
use percent_encoding::percent_decode_str;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    redirect,
};

/// What is sent as the name of this program.
const USER_AGENT: &str = concat!("outpost-edge-agent/", env!("CARGO_PKG_VERSION"));

/// How to reach a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    /// Where in the configuration it is named.
    pub(crate) section: &'static str,
    pub(crate) url: &'a str,
    /// File with a token to show.
    pub(crate) token: Option<&'a Path>,
    /// A name to show, and the file with its password.
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a Path>,
    /// Certificate authority to trust, PEM; the public ones where it is absent.
    pub(crate) certificate_authority: Option<&'a Path>,
    /// Whether secrets may go in the clear.
    pub(crate) plain_http: bool,
    /// The longest that connecting may take.
    pub(crate) timeout: Duration,
    /// How often a call may be sent elsewhere.
    pub(crate) redirects: usize,
}

/// A server, and how it knows this device.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    client: Client,
    url: Url,
    credentials: Credentials,
}

#[derive(Clone)]
enum Credentials {
    None,
    Token(BearerToken),
    Password(Arc<Password>),
}

/// A name with its password, and how it is shown.
struct Password {
    username: String,
    password: String,
    /// What the server asked for last, where that was Digest.
    digest: Mutex<Option<DigestClient>>,
}

/// Why a web server cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// The address does not parse.
    #[error("`{section}.url` is no address: write https://HOST/PATH")]
    Url {
        /// Where in the configuration.
        section: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address is of another protocol.
    #[error("`{0}.url` is neither https:// nor http://: nothing else is spoken")]
    Scheme(&'static str),
    /// A secret would go in the clear.
    #[error(
        "`{section}` would show a token or password to {server} in the clear: write https://, or set `plain_http` where the network is trusted"
    )]
    InTheClear {
        /// Where in the configuration.
        section: &'static str,
        /// The server.
        server: String,
    },
    /// More than one of the ways to be known, or half of one.
    #[error(
        "`{0}` says who calls in no single way: give `token`, or `username` with `password`, or neither"
    )]
    Credentials(&'static str),
    /// The token is at fault.
    #[error(transparent)]
    Token(#[from] outpost_transport::TokenError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificate authority is at fault.
    #[error("cannot use the `certificate_authority` of `{section}`")]
    Authority {
        /// Where in the configuration.
        section: &'static str,
        /// Why.
        source: outpost_transport::ConfigError,
    },
    /// The client does not start.
    #[error("cannot call web servers")]
    Client(#[source] reqwest::Error),
}

impl Server {
    pub(crate) fn new(access: Access<'_>) -> Result<Self, WebError> {
        let section = access.section;
        let mut url: Url = access.url.parse().map_err(|source| WebError::Url {
            section,
            source: Box::new(source),
        })?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(WebError::Scheme(section));
        }
        let is_in_url = !url.username().is_empty() || url.password().is_some();
        let credentials = match (access.token, access.username, access.password) {
            (None, None, None) if is_in_url => Password::take(&mut url),
            (None, None, None) => Credentials::None,
            (Some(path), None, None) if !is_in_url => Credentials::Token(BearerToken::load(path)?),
            (None, Some(username), Some(path)) if !is_in_url => {
                Password::credentials(username.to_owned(), secret(path)?)
            }
            _ => return Err(WebError::Credentials(section)),
        };
        let is_secret = !matches!(credentials, Credentials::None);
        if is_secret && url.scheme() == "http" && !access.plain_http {
            return Err(WebError::InTheClear {
                section,
                server: url.origin().ascii_serialization(),
            });
        }
        let tls = trust(access.certificate_authority)?.web_client_config();
        let tls = tls.map_err(|source| WebError::Authority { section, source })?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(USER_AGENT)
            .connect_timeout(access.timeout)
            .redirect(redirects(access.redirects))
            .referer(false)
            .no_proxy()
            .build()
            .map_err(WebError::Client)?;
        Ok(Self {
            client,
            url,
            credentials,
        })
    }

    /// A call, with what this device is known by.
    pub(crate) fn request(&self, method: Method) -> RequestBuilder {
        let request = self.client.request(method.clone(), self.url.clone());
        match &self.credentials {
            Credentials::None => request,
            Credentials::Token(token) => request.header(AUTHORIZATION, token.header()),
            Credentials::Password(shown) => match shown.digest(&method, &self.url) {
                Some(digest) => request.header(AUTHORIZATION, digest),
                None => request.basic_auth(&shown.username, Some(&shown.password)),
            },
        }
    }

    /// Calls it without a body; once more where it asks for Digest, as it is asked for from then on.
    pub(crate) async fn call(&self, method: Method) -> Result<Response, reqwest::Error> {
        let response = self.request(method.clone()).send().await?;
        // Only what is within the same server is shown a password.
        let is_here = response.url().origin() == self.url.origin();
        let Credentials::Password(password) = &self.credentials else {
            return Ok(response);
        };
        if response.status() != StatusCode::UNAUTHORIZED || !is_here || !password.ask(&response) {
            return Ok(response);
        }
        let url = response.url().clone();
        let Some(digest) = password.digest(&method, &url) else {
            return Ok(response);
        };
        let request = self.client.request(method, url);
        request.header(AUTHORIZATION, digest).send().await
    }

    /// Whether it is shown a token or password.
    pub(crate) fn is_shown_secrets(&self) -> bool {
        !matches!(self.credentials, Credentials::None)
    }

    /// The server without what may be secret in its address.
    pub(crate) fn name(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

impl Password {
    fn credentials(username: String, password: String) -> Credentials {
        Credentials::Password(Arc::new(Self {
            username,
            password,
            digest: Mutex::default(),
        }))
    }

    /// Those in a URL, out of it.
    fn take(url: &mut Url) -> Credentials {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (username, password) = (
            decoded(url.username()),
            decoded(url.password().unwrap_or_default()),
        );
        // Those of http:// and https:// can be without.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Self::credentials(username, password)
    }

    /// Notes what a server asks for; whether that is Digest.
    fn ask(&self, response: &Response) -> bool {
        let asked = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let asked = asked.filter_map(|asked| asked.to_str().ok());
        let client = asked.fold(PasswordClient::builder(), |client, asked| {
            client.challenges(asked)
        });
        let Ok(PasswordClient::Digest(digest)) = client.build() else {
            return false;
        };
        *self.lock() = Some(digest);
        true
    }

    /// What is shown with a call without a body, where the server asks for Digest.
    fn digest(&self, method: &Method, url: &Url) -> Option<HeaderValue> {
        let uri = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut digest = self.lock();
        let digest = digest.as_mut()?;
        // A body is part of it only where it has to be: not all who offer that do it right.
        let wants_body = !(digest.qop() & Qop::Auth);
        let shown = digest.respond(&PasswordParams {
            username: &self.username,
            password: &self.password,
            uri: &uri,
            method: method.as_str(),
            body: wants_body.then_some(&[]),
        });
        let mut shown = HeaderValue::try_from(shown.ok()?).ok()?;
        shown.set_sensitive(true);
        Some(shown)
    }

    fn lock(&self) -> MutexGuard<'_, Option<DigestClient>> {
        self.digest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong with a call, without its address.
pub(crate) fn failure(error: reqwest::Error) -> String {
    error_chain(&error.without_url())
}

/// Whom to believe.
pub(crate) fn trust(authority: Option<&Path>) -> Result<Trust, WebError> {
    let Some(path) = authority else {
        return Ok(Trust::PublicAuthorities);
    };
    match fs::read(path) {
        Ok(pem) => Ok(Trust::Authority(pem)),
        Err(source) => Err(WebError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The secret in a file, without the line's end.
pub(crate) fn secret(path: &Path) -> Result<String, WebError> {
    let text = fs::read_to_string(path).map_err(|source| WebError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Follows a call that is sent elsewhere, so often, and never out of TLS.
fn redirects(most: usize) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let is_tls = |url: &Url| url.scheme() == "https";
        if most == 0 {
            attempt.stop()
        } else if attempt.previous().len() > most {
            attempt.error("it was sent elsewhere too often")
        } else if attempt.previous().iter().any(is_tls) && !is_tls(attempt.url()) {
            attempt.error("it was sent from https:// to http://")
        } else {
            attempt.follow()
        }
    })
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token(hidden)",
            Self::Password(_) => "Password(hidden)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Access<'_> {
        Access {
            section: "urls",
            url,
            token: None,
            username: None,
            password: None,
            certificate_authority: None,
            plain_http: false,
            timeout: Duration::from_secs(1),
            redirects: 0,
        }
    }

    #[test]
    fn a_server_is_named_without_what_is_secret() {
        let server = Server::new(server(
            "https://me:se%20cret@camera:8443/se/cret?key=secret",
        ));
        let server = server.unwrap();
        assert_eq!(server.name(), "https://camera:8443");
        let Credentials::Password(taken) = &server.credentials else {
            panic!("they were in the URL");
        };
        assert_eq!((&*taken.username, &*taken.password), ("me", "se cret"));
        assert_eq!(
            server.url.as_str(),
            "https://camera:8443/se/cret?key=secret"
        );
    }

    #[test]
    fn what_cannot_be_called_is_refused_without_telling_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "0123456789\n").unwrap();
        let plain = server("http://camera/");
        for (access, says) in [
            (server("//no:secret@address"), "is no address"),
            (server("rtsp://me:secret@camera/"), "neither https"),
            (server("http://me:secret@camera/"), "plain_http"),
            (
                Access {
                    token: Some(&file),
                    ..plain
                },
                "plain_http",
            ),
            (
                Access {
                    username: Some("me"),
                    ..plain
                },
                "no single way",
            ),
            (
                Access {
                    token: Some(&file),
                    ..server("https://me:secret@camera/")
                },
                "no single way",
            ),
            (
                Access {
                    token: Some(Path::new("/none")),
                    ..server("https://camera/")
                },
                "/none",
            ),
            (
                Access {
                    certificate_authority: Some(&file),
                    ..server("https://camera/")
                },
                "`urls`",
            ),
        ] {
            let error = Server::new(access).unwrap_err();
            let error = error_chain(&error);
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("secret@"), "{error}");
        }
        let allowed = Access {
            username: Some("me"),
            password: Some(&file),
            plain_http: true,
            ..plain
        };
        let server = Server::new(allowed).unwrap();
        assert!(!format!("{server:?}").contains("0123456789"));
    }
}
