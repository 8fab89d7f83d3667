//! Until when the certificates are valid that this device shows, and the authorities that it trusts: told before they end, as
//! nobody looks at a program that is left running.

use std::{
    collections::HashMap,
    fmt, fs, mem,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use outpost_engine::PeerConfig;
use outpost_transport::CertificateFacts;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{config::Config, metrics::Metrics};

const DAY: Duration = Duration::from_hours(24);
/// A certificate with less time left is warned of.
const SOON: Duration = DAY.saturating_mul(14);
/// The files are looked at so often: a clock that was wrong may have been set.
const EVERY: Duration = Duration::from_hours(1);

/// A file of the configuration with a certificate that this device shows, or authorities that it trusts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Certificate {
    /// The field that names it.
    pub(crate) field: String,
    file: PathBuf,
    trusts: bool,
}

/// How the days of a certificate stand. Its text says it, by this machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    /// Valid for so long.
    Valid(Duration),
    /// Valid for less than two weeks.
    EndsSoon(Duration),
    /// Valid no more since then.
    Expired(Duration),
    /// Valid only in so long.
    Early(Duration),
}

impl Certificate {
    /// All that a configuration names.
    pub(crate) fn all_of(config: &Config) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |field: String, file: &Option<PathBuf>, trusts| {
            all.extend(file.clone().map(|file| Self {
                field,
                file,
                trusts,
            }));
        };
        for (site, peers) in [("fog", &config.fog), ("cloud", &config.cloud)] {
            let endpoints = peers.iter().flat_map(PeerConfig::endpoints);
            for (place, peer) in endpoints.enumerate() {
                let name = match place {
                    0 => site.to_owned(),
                    _ => format!("{site}.others {}", peer.url),
                };
                let authority = &peer.certificate_authority;
                add(format!("{name}.certificate_authority"), authority, true);
                let shown = &peer.client_certificate;
                add(format!("{name}.client_certificate"), shown, false);
            }
        }
        if let Some(api) = &config.api {
            add("api.certificate".to_owned(), &api.certificate, false);
        }
        if let Some(page) = &config.page {
            add("page.certificate".to_owned(), &page.certificate, false);
        }
        for url in &config.urls {
            let field = format!("urls {}.certificate_authority", url.name);
            add(field, &url.certificate_authority, true);
        }
        if let Some(webhook) = &config.outputs.webhook {
            let field = "outputs.webhook.certificate_authority".to_owned();
            add(field, &webhook.certificate_authority, true);
        }
        if let Some(mqtt) = &config.outputs.mqtt {
            let field = "outputs.mqtt.certificate_authority".to_owned();
            add(field, &mqtt.certificate_authority, true);
        }
        all
    }

    /// What it says now. None where it cannot be read, which is told where it is used.
    fn facts(&self) -> Option<CertificateFacts> {
        let facts = CertificateFacts::of_pem(&fs::read(&self.file).ok()?).ok()?;
        if self.trusts {
            last_to_end(facts)
        } else {
            facts.into_iter().next()
        }
    }

    const fn renewal(&self) -> &'static str {
        if self.trusts {
            "get the new authority from whoever runs the service"
        } else {
            "have the certificate issued again"
        }
    }
}

impl Validity {
    pub(crate) fn of(facts: &CertificateFacts, now: SystemTime) -> Self {
        if let Ok(early) = facts.valid_from.duration_since(now)
            && !early.is_zero()
        {
            return Self::Early(early);
        }
        match facts.valid_until.duration_since(now) {
            Err(past) => Self::Expired(past.duration()),
            Ok(left) if left < SOON => Self::EndsSoon(left),
            Ok(left) => Self::Valid(left),
        }
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid(left) | Self::EndsSoon(left) => write!(f, "{} left", days(*left)),
            Self::Expired(past) => write!(f, "expired {} ago", days(*past)),
            Self::Early(early) => write!(f, "valid in {} only", days(*early)),
        }
    }
}

/// Of the authorities in a file, the one that is left once the others have ended; of those that end together the first.
pub(crate) fn last_to_end(authorities: Vec<CertificateFacts>) -> Option<CertificateFacts> {
    let from_the_last = authorities.into_iter().rev();
    from_the_last.max_by_key(|facts| facts.valid_until)
}

fn days(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    match hours {
        0..2 => format!("{} minutes", time.as_secs() / 60),
        2..48 => format!("{hours} hours"),
        _ => format!("{} days", hours / 24),
    }
}

/// Looks at the latest `certificates`, hourly and whenever there are others; sets their metrics and warns of each once a day,
/// and at once where it came to be otherwise.
pub(crate) async fn follow(mut certificates: watch::Receiver<Vec<Certificate>>, metrics: Metrics) {
    let mut told = HashMap::new();
    loop {
        let present = certificates.borrow_and_update().clone();
        let look = move || {
            let with_facts = |certificate: Certificate| {
                let facts = certificate.facts()?;
                Some((certificate, facts))
            };
            present.into_iter().filter_map(with_facts).collect()
        };
        let found: Vec<_> = spawn_blocking(look).await.unwrap_or_default();
        metrics.certificates_are_valid_until(&found);
        let now = SystemTime::now();
        told.retain(|certificate, _| found.iter().any(|(found, _)| found == certificate));
        for (certificate, facts) in found {
            let validity = Validity::of(&facts, now);
            let kind = (mem::discriminant(&validity), facts.valid_until);
            let before = told.get(&certificate);
            let is_told = before
                .is_some_and(|(before, at): &(_, Instant)| *before == kind && at.elapsed() < DAY);
            if is_told {
                continue;
            }
            warn(&certificate, validity);
            told.insert(certificate, (kind, Instant::now()));
        }
        tokio::select! {
            changed = certificates.changed() => if changed.is_err() {
                return;
            },
            () = sleep(EVERY) => {}
        }
    }
}

fn warn(certificate: &Certificate, validity: Validity) {
    let advice = match validity {
        Validity::Valid(_) => return,
        Validity::EndsSoon(_) => certificate.renewal().to_owned(),
        Validity::Expired(_) | Validity::Early(_) => format!(
            "set the clock if it is wrong (`timedatectl set-ntp true`), or {}",
            certificate.renewal()
        ),
    };
    tracing::warn!(
        certificate = certificate.field,
        file = %certificate.file.display(),
        %validity,
        "a certificate is not valid, or not for long: {advice}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_of_for_two_weeks_before_it_ends() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let facts = |from: SystemTime, until: SystemTime| CertificateFacts {
            names: vec!["cloud.example".to_owned()],
            valid_from: from,
            valid_until: until,
        };
        for (from, until, validity, says) in [
            (
                now - DAY,
                now + 20 * DAY,
                Validity::Valid(20 * DAY),
                "20 days left",
            ),
            (
                now - DAY,
                now + 13 * DAY,
                Validity::EndsSoon(13 * DAY),
                "13 days left",
            ),
            (
                now - 9 * DAY,
                now - DAY,
                Validity::Expired(DAY),
                "expired 24 hours ago",
            ),
            (
                now + 400 * DAY,
                now + 800 * DAY,
                Validity::Early(400 * DAY),
                "in 400 days only",
            ),
        ] {
            let found = Validity::of(&facts(from, until), now);
            assert_eq!(found, validity);
            assert!(found.to_string().contains(says), "{found}");
        }
    }

    #[test]
    fn every_file_with_a_certificate_is_looked_at() {
        let config: Config = toml::from_str(
            "[cloud]\nurl = \"https://a\"\ncertificate_authority = \"a.pem\"\n\
             [[cloud.others]]\nurl = \"https://b\"\nclient_certificate = \"b.pem\"\nclient_key = \"b.key\"\n\
             [api]\ncertificate = \"api.pem\"\nkey = \"api.key\"\n\
             [page]\ncertificate = \"page.pem\"\nkey = \"page.key\"\n\
             [[urls]]\nname = \"door\"\nurl = \"https://c\"\ncertificate_authority = \"c.pem\"\n\
             [outputs.webhook]\nurl = \"https://d\"\ncertificate_authority = \"d.pem\"\n\
             [outputs.mqtt]\nhost = \"e\"\ntopic = \"t\"\ncertificate_authority = \"e.pem\"\n",
        )
        .unwrap();
        let all = Certificate::all_of(&config);
        let found: Vec<_> = all
            .iter()
            .map(|certificate| {
                (
                    certificate.field.as_str(),
                    certificate.file.to_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("cloud.certificate_authority", "a.pem"),
                ("cloud.others https://b.certificate_authority", "a.pem"),
                ("cloud.others https://b.client_certificate", "b.pem"),
                ("api.certificate", "api.pem"),
                ("page.certificate", "page.pem"),
                ("urls door.certificate_authority", "c.pem"),
                ("outputs.webhook.certificate_authority", "d.pem"),
                ("outputs.mqtt.certificate_authority", "e.pem"),
            ]
        );
    }
}
