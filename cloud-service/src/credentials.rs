//! Certificates, keys, authorities and identities: read from files at the start, and again where these change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outpost_engine::{PeerConfig, PeerError};
use outpost_supervision::{Call, Digests, Watch, ready, reloading};
use outpost_transport::{
    Channel, ClientAuthentication, ClientAuthority, ClientAuthorityError, Identity, IdentityError,
    ServerTls, TlsHandle,
};

use crate::{
    access::{Access, Identities, IdentitiesError},
    config::{AccessConfig, ClientCertificates, Config, Tls},
    metrics::Metrics,
    repository::Repository,
};

/// What the files of a configuration hold.
pub(crate) struct Credentials {
    pub(crate) tls: Option<ServerTls>,
    pub(crate) identities: Option<Identities>,
    /// To the next service, with the credentials for it.
    next: Option<Vec<Channel>>,
}

/// Why the files of a configuration were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The certificate or the key is at fault.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The authority of the clients is at fault.
    #[error(transparent)]
    ClientAuthority(#[from] ClientAuthorityError),
    /// The identities are at fault.
    #[error(transparent)]
    Identities(#[from] IdentitiesError),
    /// The credentials for the next service are at fault.
    #[error("cannot use `cloud`, the next service")]
    Next(#[from] PeerError),
    /// Certificates are named that no client is asked for.
    #[error(
        "the identities name `certificates`, and clients are not asked for them: set `tls.client_authority`"
    )]
    NotAsked,
}

impl Credentials {
    /// Reads the files.
    pub(crate) fn load(config: &Config) -> Result<Self, CredentialsError> {
        let tls = config.tls.as_ref().map(load_tls).transpose()?;
        let load = |access: &AccessConfig| Identities::load(&access.identities);
        let identities = config.access.as_ref().map(load).transpose()?;
        let are_asked = matches!(&config.tls, Some(tls) if tls.client_authority.is_some());
        if !are_asked
            && identities
                .as_ref()
                .is_some_and(Identities::use_certificates)
        {
            return Err(CredentialsError::NotAsked);
        }
        let next = config
            .cloud
            .as_ref()
            .map(PeerConfig::channels)
            .transpose()?;
        Ok(Self {
            tls,
            identities,
            next,
        })
    }
}

fn load_tls(tls: &Tls) -> Result<ServerTls, CredentialsError> {
    let mut server = ServerTls::from(Identity::load(&tls.certificate, &tls.key)?);
    server.minimum_version = tls.minimum_version;
    if let Some(authority) = &tls.client_authority {
        let revocations = tls.client_revocations.as_deref();
        let authority = ClientAuthority::load(authority, revocations)?;
        server.clients = match tls.client_certificates {
            ClientCertificates::Required => ClientAuthentication::Required(authority),
            ClientCertificates::Optional => ClientAuthentication::Optional(authority),
        };
    }
    Ok(server)
}

/// Puts what changed in the files to use.
pub(crate) struct Follower {
    config: Arc<Config>,
    users: Users,
    metrics: Metrics,
    /// The files as they were before they were read last.
    seen: Digests,
}

/// Who uses the credentials.
pub(crate) struct Users {
    pub(crate) tls: Option<TlsHandle>,
    pub(crate) access: Option<Access>,
    /// Whose cascades call the next service.
    pub(crate) repository: Arc<Repository>,
}

impl Follower {
    /// Follows the files, which were read after `seen`.
    pub(crate) fn new(config: Arc<Config>, seen: Digests, users: Users, metrics: Metrics) -> Self {
        Self {
            config,
            users,
            metrics,
            seen,
        }
    }

    /// Looks at the files in the configured time, and at every SIGHUP.
    pub(crate) async fn follow(mut self) {
        let every = Duration::from_secs(self.config.credentials_seconds);
        let mut watch = Watch::new(every).unwrap_or_else(|error| {
            tracing::warn!(%error, "SIGHUP does not have the credentials read again");
            Watch::without_signal(every)
        });
        loop {
            let call = watch.next(&self.seen).await;
            if call == Call::Look {
                continue;
            }
            reloading();
            let now = self.seen.again();
            let said = match now == self.seen {
                true => SERVING,
                false => self.reload(),
            };
            self.seen = now;
            ready(said);
        }
    }

    /// Reads the files; gives what the service manager is told.
    fn reload(&self) -> &'static str {
        match Credentials::load(&self.config) {
            Ok(credentials) => {
                if let (Some(handle), Some(tls)) = (&self.users.tls, &credentials.tls) {
                    handle.replace(tls);
                }
                if let (Some(access), Some(identities)) =
                    (&self.users.access, credentials.identities)
                {
                    access.replace(identities);
                }
                if let Some(next) = credentials.next {
                    self.users.repository.call_over(&next);
                }
                self.metrics.credentials_loaded(credentials.tls.as_ref());
                tracing::info!("credentials changed: new ones are in use");
                SERVING
            }
            Err(error) => {
                self.metrics.credentials_refused();
                tracing::error!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "credentials changed and do not hold: the old ones stay in use"
                );
                "serving with old credentials: the new ones do not hold, see the log"
            }
        }
    }
}

/// What the service manager is told while all is well.
pub(crate) const SERVING: &str = "serving";

/// The files of credentials.
pub(crate) fn files(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let tls = config.tls.iter().flat_map(|tls| {
        let own = [&tls.certificate, &tls.key];
        own.into_iter()
            .chain(&tls.client_authority)
            .chain(&tls.client_revocations)
    });
    let next = config.cloud.iter().flat_map(PeerConfig::credentials);
    tls.chain(config.access.iter().map(|access| &access.identities))
        .chain(next)
}
