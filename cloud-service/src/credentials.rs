//! Certificates, keys, authorities and identities: read from files at the start, and again where these change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use outpost_transport::{
    ClientAuthentication, ClientAuthority, ClientAuthorityError, Identity, IdentityError,
    ServerTls, TlsHandle,
};
use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    access::{Access, Identities, IdentitiesError},
    config::{AccessConfig, ClientCertificates, Config, Tls},
    metrics::Metrics,
};

/// What the files of a configuration hold.
pub(crate) struct Credentials {
    pub(crate) tls: Option<ServerTls>,
    pub(crate) identities: Option<Identities>,
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
        Ok(Self { tls, identities })
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
    /// Digest of the files as they were before they were read last.
    seen: Fingerprint,
    /// None where the system has no such signal to give.
    hangups: Option<Signal>,
}

/// Who uses the credentials.
pub(crate) struct Users {
    pub(crate) tls: Option<TlsHandle>,
    pub(crate) access: Option<Access>,
}

impl Follower {
    /// Follows the files, which were read after `seen`.
    pub(crate) fn new(
        config: Arc<Config>,
        seen: Fingerprint,
        users: Users,
        metrics: Metrics,
    ) -> Self {
        let hangups = signal(SignalKind::hangup())
            .inspect_err(|error| {
                tracing::warn!(%error, "SIGHUP does not have the credentials read again");
            })
            .ok();
        Self {
            config,
            users,
            metrics,
            seen,
            hangups,
        }
    }

    /// Looks at the files in the configured time, and at every SIGHUP.
    pub(crate) async fn follow(mut self) {
        let mut looks = interval(Duration::from_secs(self.config.credentials_seconds));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is at once, and the files were just read.
        looks.tick().await;
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = next(&mut self.hangups) => {}
            }
            let now = Fingerprint::of(&self.config);
            if now != self.seen {
                self.reload();
                self.seen = now;
            }
        }
    }

    fn reload(&self) {
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
                self.metrics.credentials_loaded(credentials.tls.as_ref());
                tracing::info!("credentials changed: new ones are in use");
            }
            Err(error) => {
                self.metrics.credentials_refused();
                tracing::error!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "credentials changed and do not hold: the old ones stay in use"
                );
            }
        }
    }
}

/// A digest of all files of credentials as they are at a time. A file that cannot be read counts as empty: reading
/// it again says why.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(config: &Config) -> Self {
        let mut digest = Sha256::new();
        for path in files(config) {
            let bytes = std::fs::read(path).unwrap_or_default();
            digest.update(Sha256::digest(bytes));
        }
        Self(digest.finalize().into())
    }
}

fn files(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let tls = config.tls.iter().flat_map(|tls| {
        let own = [&tls.certificate, &tls.key];
        own.into_iter()
            .chain(&tls.client_authority)
            .chain(&tls.client_revocations)
    });
    tls.chain(config.access.iter().map(|access| &access.identities))
}

async fn next(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending::<()>().await;
    }
}
