//! `[page]` of the configuration.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use outpost_page::Source;
use outpost_transport::Origin;
use serde::Deserialize;

use super::{Config, ConfigError};

/// The page that makes a phone in the same network a device of its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageConfig {
    /// Address and port. Default `127.0.0.1:8444`.
    pub address: SocketAddr,
    /// Certificate chain, PEM. Default that of `[api]`.
    pub certificate: Option<PathBuf>,
    /// Private key of `certificate`, PEM.
    pub key: Option<PathBuf>,
    /// The service that the page asks, `https://HOST:PORT`. Default that of `[cloud]`, or else of `[fog]`.
    pub cloud: Option<Origin>,
    /// The folder that `scripts/build-web` makes. Default: what the program was built with.
    pub folder: Option<PathBuf>,
}

impl Default for PageConfig {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 8444).into(),
            certificate: None,
            key: None,
            cloud: None,
            folder: None,
        }
    }
}

impl PageConfig {
    pub(super) fn resolve(&mut self, folder: &Path) {
        for path in [&mut self.certificate, &mut self.key, &mut self.folder] {
            *path = path.take().map(|path| folder.join(path));
        }
    }
}

impl Config {
    /// Checks `[page]`, where it is there.
    pub(super) fn check_page(&self) -> Result<(), ConfigError> {
        let Some(page) = &self.page else {
            return Ok(());
        };
        match (&page.certificate, &page.key) {
            (Some(_), None) => return Err(ConfigError::Incomplete("page.key")),
            (None, Some(_)) => return Err(ConfigError::Incomplete("page.certificate")),
            _ => {}
        }
        if self.page_identity().is_none() && !page.address.ip().is_loopback() {
            return Err(ConfigError::PlainPage(page.address));
        }
        if !self.privacy.never_offload.is_empty() {
            return Err(ConfigError::PageIsNotPrivate);
        }
        match self.page_cloud() {
            Some(Ok(_)) => Ok(()),
            Some(Err(url)) => Err(ConfigError::PageCloud(url)),
            None => Err(ConfigError::NobodyForThePage),
        }
    }

    /// Certificate and key of the page: its own, or those of the API.
    pub(crate) fn page_identity(&self) -> Option<(&Path, &Path)> {
        let page = self.page.as_ref()?;
        let api = self.api.as_ref();
        let of_api = || api.and_then(|api| api.certificate.as_deref().zip(api.key.as_deref()));
        page.certificate
            .as_deref()
            .zip(page.key.as_deref())
            .or_else(of_api)
    }

    /// What the page is made of and does; none without `[page]`.
    pub(crate) fn page_source(&self) -> Option<Source> {
        let page = self.page.as_ref()?;
        Some(Source {
            folder: page.folder.clone(),
            models: self.models.clone(),
            cascade: self.cascade.clone(),
            policy: self.policy.clone(),
            operating_point: self.operating_point.clone(),
            deadline_ms: self.deadline_ms,
            correct_within_ms: self.correct_within_ms,
            cloud: self.page_cloud().and_then(Result::ok),
        })
    }

    /// Whom the page asks; or the address that a browser cannot ask.
    fn page_cloud(&self) -> Option<Result<Origin, String>> {
        let named = self.page.as_ref().and_then(|page| page.cloud.clone());
        let origin = match named {
            Some(origin) => Ok(origin),
            None => {
                let url = &self.cloud.as_ref().or(self.fog.as_ref())?.url;
                let origin = url.strip_suffix('/').unwrap_or(url).parse();
                origin.map_err(|_| url.clone())
            }
        };
        Some(origin.and_then(|origin: Origin| {
            // A page that came over TLS may not call in the clear; and what it may do (its content security policy) has no way to
            // write addresses of IPv6.
            let host = origin.as_str().strip_prefix("https://");
            let is_plain = |letter: char| letter.is_ascii_alphanumeric() || ".-:".contains(letter);
            match host.is_some_and(|host| host.chars().all(is_plain)) {
                true => Ok(origin),
                false => Err(origin.as_str().to_owned()),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(toml: &str) -> Result<Option<String>, String> {
        let config: Config = toml::from_str(toml).unwrap();
        let checked = config.check_page().map_err(|error| error.to_string());
        checked.map(|()| {
            let cloud = config.page_source().and_then(|source| source.cloud);
            cloud.map(|cloud| cloud.as_str().to_owned())
        })
    }

    #[test]
    fn a_page_asks_whom_the_device_asks_unless_it_is_told_otherwise() {
        for (toml, cloud) in [
            ("", None),
            (
                "[page]\n[cloud]\nurl = \"https://Cloud.example:8443/\"",
                Some("https://cloud.example:8443"),
            ),
            (
                "[page]\n[fog]\nurl = \"https://fog.example\"",
                Some("https://fog.example"),
            ),
            (
                "[page]\ncloud = \"https://other.example\"\n[cloud]\nurl = \"http://cloud.example\"",
                Some("https://other.example"),
            ),
        ] {
            assert_eq!(said(toml), Ok(cloud.map(str::to_owned)), "{toml}");
        }
    }

    #[test]
    fn what_a_page_cannot_do_is_refused_by_name() {
        let cloud = "[cloud]\nurl = \"https://cloud.example\"";
        for (page, rest, says) in [
            ("", "", "[cloud]"),
            (
                "",
                "[cloud]\nurl = \"http://cloud.example\"",
                "`page.cloud`",
            ),
            (
                "",
                "[cloud]\nurl = \"https://a.example/path\"",
                "`page.cloud`",
            ),
            ("", "[cloud]\nurl = \"https://[::1]:8443\"", "`page.cloud`"),
            ("address = \"0.0.0.0:8444\"", cloud, "`page.certificate`"),
            ("certificate = \"a.pem\"", cloud, "`page.key`"),
            ("key = \"a.key\"", cloud, "`page.certificate`"),
            (
                "",
                &format!("{cloud}\n[privacy]\nnever_offload = [\"cat\"]"),
                "never_offload",
            ),
        ] {
            let error = said(&format!("[page]\n{page}\n{rest}")).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn other_machines_get_the_page_with_the_certificate_of_the_api() {
        let toml = "[page]\naddress = \"0.0.0.0:8444\"\n[api]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\
            [cloud]\nurl = \"https://cloud.example\"";
        let config: Config = toml::from_str(toml).unwrap();
        config.check_page().unwrap();
        let (certificate, key) = config.page_identity().unwrap();
        assert_eq!((certificate, key), (Path::new("a.pem"), Path::new("a.key")));
    }
}
