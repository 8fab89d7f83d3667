//! Authorities, certificates, keys and tokens in files.

use std::{fs, path::Path, time::SystemTime};

use outpost_engine::{PeerConfig, error_chain};
use outpost_transport::{BearerToken, CertificateFacts, Identity};

use super::{Examination, Finding, report::Subject};
use crate::{
    api,
    certificates::{Validity, last_to_end},
    config::Config,
    inputs,
    outputs::{self, MqttError},
    web::WebError,
};

const NO_AUTHORITY: &str = "take the authority's certificate (PEM) from whoever runs the server";
const WRONG_FIELD: &str = "correct the field that the message names";

/// Looks at the files of credentials.
pub(super) fn examine(config: &Config, examination: &mut Examination<'_>) {
    let now = SystemTime::now();
    for (site, peer) in [("fog", &config.fog), ("cloud", &config.cloud)] {
        let Some(peers) = peer else { continue };
        let endpoints = peers.endpoints();
        of_peer(site, &endpoints[0], now, examination);
        for other in &endpoints[1..] {
            let name = format!("{site}.others {}", other.url);
            of_peer(&name, other, now, examination);
        }
    }
    let page = config.page.as_ref();
    if let Some((certificate, key)) =
        page.and_then(|page| page.certificate.as_deref().zip(page.key.as_deref()))
    {
        identity("page.certificate", certificate, key, now, examination);
    }
    for url in &config.urls {
        let name = format!("urls {}", url.name);
        let authority = url.certificate_authority.as_deref();
        let loaded = inputs::look_at_url(url).map_err(|error| at_fault(&error));
        of_server(&name, loaded, authority, now, examination);
    }
    if let Some(webhook) = &config.outputs.webhook {
        let authority = webhook.certificate_authority.as_deref();
        let loaded = outputs::look_at_webhook(webhook).map_err(|error| at_fault(&error));
        of_server("outputs.webhook", loaded, authority, now, examination);
    }
    if let Some(mqtt) = &config.outputs.mqtt {
        let authority = mqtt.certificate_authority.as_deref();
        let loaded = outputs::look_at_mqtt(mqtt).map_err(|error| match &error {
            MqttError::File(of_file) => at_fault(of_file),
            MqttError::Authority { .. } => (error_chain(&error), NO_AUTHORITY),
            _ => (error_chain(&error), WRONG_FIELD),
        });
        of_server("outputs.mqtt", loaded, authority, now, examination);
    }
    let Some(api) = &config.api else { return };
    if let (Some(certificate), Some(key)) = (&api.certificate, &api.key) {
        identity("api.certificate", certificate, key, now, examination);
    }
    if api.token.is_some() {
        let subject = Finding::new("credential", "api.token");
        let loaded = api::Credentials::check_token(api);
        examination.add(match loaded {
            Ok(()) => subject.good("can be read, and is long enough"),
            Err(error) => {
                subject.failed(error_chain(&error), "make one with `openssl rand -hex 32`")
            }
        });
    }
}

/// What is wrong with how a server is called, and what to do.
type Fault = (String, &'static str);

fn at_fault(error: &WebError) -> Fault {
    let advice = match error {
        WebError::Token(_) | WebError::Read { .. } => {
            "put the file there, and give this user the right to read it"
        }
        WebError::Authority { .. } => NO_AUTHORITY,
        _ => WRONG_FIELD,
    };
    (error_chain(error), advice)
}

/// A server that takes events or gives images: its token, password and authority are `loaded`, and it is not called.
fn of_server(
    name: &str,
    loaded: Result<(), Fault>,
    authority_file: Option<&Path>,
    now: SystemTime,
    examination: &mut Examination<'_>,
) {
    let subject = Finding::new("credential", name);
    let is_loaded = loaded.is_ok();
    examination.add(match loaded {
        Ok(()) => subject.good("address and files can be used; not called"),
        Err((found, advice)) => subject.failed(found, advice),
    });
    if is_loaded && let Some(path) = authority_file {
        let subject = Finding::new("credential", format!("{name}.certificate_authority"));
        examination.add(authority(subject, path, now));
    }
}

fn of_peer(site: &str, peer: &PeerConfig, now: SystemTime, examination: &mut Examination<'_>) {
    if let Some(path) = &peer.certificate_authority {
        let subject = Finding::new("credential", format!("{site}.certificate_authority"));
        examination.add(authority(subject, path, now));
    }
    match (&peer.client_certificate, &peer.client_key) {
        (Some(certificate), Some(key)) => {
            let name = format!("{site}.client_certificate");
            identity(&name, certificate, key, now, examination);
        }
        (None, None) => {}
        (one, _) => {
            let (there, missing) = match one {
                Some(_) => ("client_certificate", "client_key"),
                None => ("client_key", "client_certificate"),
            };
            examination.add(
                Finding::new("credential", format!("{site}.{there}")).failed(
                    format!("`{missing}` is missing"),
                    format!("give `{site}.{missing}`, too"),
                ),
            );
        }
    }
    if let Some(path) = &peer.token {
        let subject = Finding::new("credential", format!("{site}.token"));
        examination.add(match BearerToken::load(path) {
            Ok(_) => subject.good("can be read"),
            Err(error) => subject.failed(
                error_chain(&error),
                "have one issued at the service (`cloud-service new-token`), and put it there",
            ),
        });
    }
}

fn authority(subject: Subject, path: &Path, now: SystemTime) -> Finding {
    let advice = "take `ca.pem` from whoever runs the service";
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => return subject.failed(format!("{}: {error}", path.display()), advice),
    };
    match CertificateFacts::of_pem(&text).map(last_to_end) {
        Ok(Some(last)) => validity(
            subject,
            &last,
            now,
            "have whoever runs the service give you the new authority",
        ),
        Ok(None) => subject.failed(format!("{} holds no certificate", path.display()), advice),
        Err(error) => subject.failed(format!("{}: {error}", path.display()), advice),
    }
}

fn identity(
    name: &str,
    certificate: &Path,
    key: &Path,
    now: SystemTime,
    examination: &mut Examination<'_>,
) {
    let subject = Finding::new("credential", name);
    let renew = "have the certificate issued again";
    examination.add(match Identity::load(certificate, key) {
        Ok(identity) => match identity.facts() {
            Some(facts) => validity(subject, &facts, now, renew),
            None => subject.warning("its days cannot be read", renew),
        },
        Err(error) => subject.failed(
            error_chain(&error),
            "give a certificate and the key that belongs to it",
        ),
    });
}

/// Whether a certificate is valid now, and for how long.
pub(super) fn validity(
    subject: Subject,
    facts: &CertificateFacts,
    now: SystemTime,
    renew: &str,
) -> Finding {
    let names = facts.names.join(", ");
    let validity = Validity::of(facts, now);
    let found = format!("{names}: {validity}");
    let by_the_clock = format!("{found}, by this machine's clock ({})", date(now));
    match validity {
        Validity::Valid(_) => subject.good(found),
        Validity::EndsSoon(_) => subject.warning(found, format!("{renew} soon")),
        Validity::Expired(_) => subject.failed(
            by_the_clock,
            format!("{renew}; if the clock is wrong, set it (`timedatectl set-ntp true`)"),
        ),
        Validity::Early(_) => subject.failed(
            by_the_clock,
            "set the clock (`timedatectl set-ntp true`); if it is right, wait or have another issued",
        ),
    }
}

/// A time as a person reads it, to the minute, in UTC.
pub(super) fn date(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    format!(
        "{} {:02}:{:02} UTC",
        time.date(),
        time.hour(),
        time.minute()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn certificates_are_warned_of_before_they_end_and_clocks_are_suspected() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let day = Duration::from_hours(24);
        for (from, until, verdict, says) in [
            (now - day, now + 20 * day, Verdict::Good, "20 days left"),
            (now - day, now + 13 * day, Verdict::Warning, "13 days left"),
            (
                now - 9 * day,
                now - day,
                Verdict::Failed,
                "expired 24 hours ago",
            ),
            (
                now + 400 * day,
                now + 800 * day,
                Verdict::Failed,
                "400 days only",
            ),
        ] {
            let facts = CertificateFacts {
                names: vec!["cloud.example".to_owned()],
                valid_from: from,
                valid_until: until,
            };
            let finding = validity(Finding::new("credential", "x"), &facts, now, "renew it");
            assert_eq!(finding.verdict, verdict);
            assert!(finding.found.contains(says), "{finding:?}");
            let is_well = verdict == Verdict::Good;
            assert_eq!(finding.advice.is_none(), is_well);
        }
    }
}
