//! Who may call, what they may use, and how much of it.
//!
//! Callers are known by a bearer token or by a name in the certificate that they showed, both listed in a file
//! of identities. Tokens stand there as SHA-256 digests: they are random and long (`cloud-service new-token`),
//! so that a slow digest would add nothing against guessing. Tokens of the page are kept as digests too, in memory alone.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    num::NonZeroU32,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use outpost_transport::{PeerCertificate, Protocol};
use sha2::{Digest, Sha256};
use tonic::{Request, Status, metadata::MetadataMap, service::Interceptor};

use crate::{error::ServiceError, metrics::Metrics};
use identities::Entry;
pub use identities::{ContentError, Identities, IdentitiesError, Permission};

mod identities;
mod new_token;
mod page_tokens;

pub(crate) use new_token::new_token;
pub(crate) use page_tokens::PageTokens;

/// A SHA-256 digest of a token.
type TokenDigest = [u8; 32];

/// Lets callers in by the identities of a file, which may change while the service runs, and by the tokens of its page.
/// Clones share them.
#[derive(Clone)]
pub struct Access {
    /// None where everybody may call; a token that is shown must still be good.
    known: Option<Arc<RwLock<Arc<Known>>>>,
    page: Option<PageTokens>,
    metrics: Metrics,
}

/// The identities by what they are known by.
#[derive(Default)]
struct Known {
    by_name: BTreeMap<String, Arc<Caller>>,
    by_token: HashMap<TokenDigest, Arc<Caller>>,
    by_certificate: HashMap<String, Arc<Caller>>,
}

/// Who a call is from: in the extensions of every request that was let in by [`Access`].
pub struct Caller {
    name: String,
    networks: Vec<String>,
    permissions: Vec<Permission>,
    limit: Option<ImageLimit>,
    /// Whether it is known by a token of the page, which is for inference alone.
    is_page: bool,
}

struct ImageLimit {
    quota: Quota,
    limiter: DefaultDirectRateLimiter,
}

impl Access {
    /// Lets the identities in.
    pub fn new(identities: Identities, metrics: Metrics) -> Self {
        let access = Self {
            known: Some(Arc::default()),
            page: None,
            metrics,
        };
        access.replace(identities);
        access
    }

    /// Lets everybody in.
    pub(crate) fn open(metrics: Metrics) -> Self {
        Self {
            known: None,
            page: None,
            metrics,
        }
    }

    /// Lets in who shows a token of the page, too.
    pub(crate) fn with_page(self, tokens: PageTokens) -> Self {
        Self {
            page: Some(tokens),
            ..self
        }
    }

    /// From now on these are let in. Who stays as they were keep what is left of their limit.
    pub(crate) fn replace(&self, identities: Identities) {
        let Some(kept) = &self.known else { return };
        let before = read(kept);
        let mut known = Known::default();
        for entry in identities.into_entries() {
            let same = before.by_name.get(&entry.name);
            let same = same.filter(|caller| caller.is_as(&entry)).cloned();
            let caller = same.unwrap_or_else(|| Arc::new(Caller::new(&entry)));
            for digest in entry.tokens {
                known.by_token.insert(digest, caller.clone());
            }
            for name in entry.certificates {
                known.by_certificate.insert(name, caller.clone());
            }
            known.by_name.insert(entry.name, caller);
        }
        *kept.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    /// Who a call is from; None where that does not matter. A token counts before a certificate, and a wrong one is
    /// not made good by it.
    pub(crate) fn identify(
        &self,
        metadata: &MetadataMap,
        certificate: Option<&PeerCertificate>,
    ) -> Result<Option<Arc<Caller>>, ServiceError> {
        let known = self.known.as_deref().map(read);
        if let Some(authorization) = metadata.get("authorization") {
            let (scheme, token) = authorization
                .to_str()
                .ok()
                .and_then(|value| value.split_once(' '))
                .ok_or(ServiceError::UnknownToken)?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(ServiceError::UnknownToken);
            }
            // A search by digest tells by its time at most how a digest begins, which does not help to find
            // the token.
            let digest: TokenDigest = Sha256::digest(token.trim()).into();
            let caller = known
                .as_ref()
                .and_then(|known| known.by_token.get(&digest).cloned());
            let of_page = || self.page.as_ref()?.find(&digest, Instant::now());
            let caller = caller.or_else(of_page);
            return caller.map(Some).ok_or(ServiceError::UnknownToken);
        }
        let Some(known) = known else {
            return Ok(None);
        };
        let Some(certificate) = certificate else {
            return Err(ServiceError::NoCredentials);
        };
        let mut names = certificate.names().iter();
        names
            .find_map(|name| known.by_certificate.get(name).cloned())
            .map(Some)
            .ok_or_else(|| ServiceError::UnknownCertificate(certificate.names().to_vec()))
    }
}

impl Interceptor for Access {
    /// Refuses strangers before their message is read.
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let certificate = request.extensions().get::<Arc<PeerCertificate>>();
        match self.identify(request.metadata(), certificate.map(|known| &**known)) {
            Ok(caller) => {
                // Nobody behind this needs it.
                request.metadata_mut().remove("authorization");
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Ok(request)
            }
            Err(error) => {
                let transport = request.extensions().get::<Protocol>().copied();
                let counted = self.metrics.request(None, transport, None, 0);
                counted.failed(&error);
                let peer = request.remote_addr();
                tracing::debug!(?peer, %error, "refused");
                Err(error.into())
            }
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.as_deref().map(read);
        let names = known.map(|known| known.by_name.keys().cloned().collect::<Vec<_>>());
        f.debug_struct("Access")
            .field("identities", &names)
            .finish()
    }
}

fn read(known: &RwLock<Arc<Known>>) -> Arc<Known> {
    known.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl ImageLimit {
    fn new(quota: Quota) -> Self {
        Self {
            quota,
            limiter: RateLimiter::direct(quota),
        }
    }
}

impl Caller {
    /// Its name in the file of identities; `page` of the page.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn new(entry: &Entry) -> Self {
        Self {
            name: entry.name.clone(),
            networks: entry.networks.clone(),
            permissions: entry.may.clone(),
            limit: entry.quota().map(ImageLimit::new),
            is_page: false,
        }
    }

    /// Who shows a token of the page, for some models and with so many images.
    fn of_page(models: Vec<String>, quota: Quota) -> Self {
        Self {
            name: "page".to_owned(),
            networks: models,
            permissions: vec![Permission::Infer],
            limit: Some(ImageLimit::new(quota)),
            is_page: true,
        }
    }

    fn is_as(&self, entry: &Entry) -> bool {
        let quota = self.limit.as_ref().map(|limit| limit.quota);
        self.networks == entry.networks && self.permissions == entry.may && quota == entry.quota()
    }

    /// Whether it may use the network, or know of it.
    pub fn may_use(&self, network: &str) -> bool {
        self.networks.iter().any(|pattern| {
            pattern
                .strip_suffix('*')
                .map_or(pattern == network, |start| network.starts_with(start))
        })
    }

    /// Whether it has the permission.
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Whether it is the page, which may ask its models and nothing beside.
    pub(crate) fn is_page(&self) -> bool {
        self.is_page
    }

    /// Takes so many images out of its limit.
    ///
    /// # Errors
    /// [`ServiceError::RateLimit`] where they are too many now, [`ServiceError::Burst`] where they always are.
    pub(crate) fn take(&self, images: usize) -> Result<(), ServiceError> {
        let (Some(limit), Some(count)) = (
            &self.limit,
            u32::try_from(images).ok().and_then(NonZeroU32::new),
        ) else {
            return Ok(());
        };
        match limit.limiter.check_n(count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_yet)) => Err(ServiceError::RateLimit {
                identity: self.name.clone(),
                retry_after: not_yet
                    .wait_time_from(DefaultClock::default().now())
                    .max(Duration::from_millis(1)),
            }),
            Err(insufficient) => Err(ServiceError::Burst {
                identity: self.name.clone(),
                images,
                burst: insufficient.0,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
