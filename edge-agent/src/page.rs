//! The page that makes a phone in the same network a device of its own ([`outpost_page`]), on an address of its own: it runs
//! this device's cascade and policy, and asks the cloud by itself.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{Router, extract::Request};
use axum_server::tls_rustls::RustlsConfig;
use outpost_page::Page;
use outpost_transport::{Identity, IdentityError};

use crate::{
    config::{Config, PageConfig},
    listen::Listening,
    metrics::Metrics,
};

/// A page and its certificate, as their files have them.
pub(crate) struct Loaded {
    page: Page,
    identity: Option<Identity>,
}

/// The page in use, which can be replaced.
#[derive(Clone)]
pub(crate) struct InUse {
    page: Arc<RwLock<Arc<Page>>>,
    /// None where no TLS is spoken.
    tls: Option<RustlsConfig>,
}

/// A page that is served, until its calls have ended.
pub(crate) struct Served {
    in_use: InUse,
    listening: Listening,
}

/// Why the page is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageServeError {
    /// The page, or what it runs, is at fault.
    #[error(transparent)]
    Page(#[from] outpost_page::PageError),
    /// The certificate or its key is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The address is not to be had.
    #[error(
        "cannot listen on {address} for the page: stop what listens there, or change `page.address`"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Loaded {
    /// Reads the page of a configuration that was checked, where it has one.
    ///
    /// # Errors
    /// [`PageServeError`], which names the file at fault.
    pub(crate) fn load(config: &Config) -> Result<Option<Self>, PageServeError> {
        let Some(source) = config.page_source() else {
            return Ok(None);
        };
        let identity = config.page_identity();
        let identity = identity.map(|(certificate, key)| Identity::load(certificate, key));
        Ok(Some(Self {
            page: Page::load(&source)?,
            identity: identity.transpose()?,
        }))
    }

    /// Whether the page itself is there, and not only what it runs.
    pub(crate) fn is_whole(&self) -> bool {
        self.page.is_whole()
    }

    /// What it comes to, for a person.
    pub(crate) fn summary(&self) -> String {
        self.page.summary()
    }
}

impl InUse {
    fn new(loaded: Loaded) -> Self {
        let identity = loaded.identity.as_ref();
        Self {
            page: Arc::new(RwLock::new(Arc::new(loaded.page))),
            tls: identity.map(|identity| RustlsConfig::from_config(identity.web_server_config())),
        }
    }

    /// New requests get the new page, and new connections the new certificate.
    pub(crate) fn replace(&self, loaded: Loaded) {
        if let (Some(tls), Some(identity)) = (&self.tls, &loaded.identity) {
            tls.reload_from_config(identity.web_server_config());
        }
        *self.page.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded.page);
    }

    fn get(&self) -> Arc<Page> {
        let page = self.page.read();
        page.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Served {
    /// Listens and serves.
    pub(crate) fn start(
        config: &PageConfig,
        loaded: Loaded,
        metrics: Metrics,
    ) -> Result<Self, PageServeError> {
        tracing::info!("{}", loaded.summary());
        let in_use = InUse::new(loaded);
        let present = in_use.clone();
        let router = Router::new().fallback(move |request: Request| async move {
            let page = present.get();
            let (request, _) = request.into_parts();
            let mut response = page.answer(&request);
            page.protect(&mut response);
            metrics.page_answered(response.status());
            response
        });
        let listening = Listening::start("the page", config.address, in_use.tls.clone(), router);
        let listening = listening.map_err(|source| PageServeError::Listen {
            address: config.address,
            source,
        })?;
        Ok(Self { in_use, listening })
    }

    /// What is served.
    pub(crate) fn in_use(&self) -> &InUse {
        &self.in_use
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.listening.local_addr()
    }

    /// Takes no more requests, and returns once those it has are answered, or after `limit`.
    pub(crate) async fn end(self, limit: Duration) {
        self.listening.end(limit).await;
    }
}
