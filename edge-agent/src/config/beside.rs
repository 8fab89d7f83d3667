//! What of a configuration takes effect while the program runs by another, and what follows from its files.

use std::path::PathBuf;

use outpost_cascade::Cascade;
use outpost_engine::PeerConfig;
use outpost_runtime::ModelFolder;

use super::Config;

impl Config {
    /// This configuration as far as it takes effect beside `running`, whose inputs, outputs, places and addresses stay; and
    /// the fields whose new values wait for a restart.
    pub(crate) fn beside(mut self, running: &Self) -> (Self, Vec<&'static str>) {
        let mut waiting = Waiting::default();
        waiting.keep("delivery", &mut self.delivery, &running.delivery);
        waiting.keep("queue", &mut self.queue, &running.queue);
        waiting.keep(
            "max_in_flight",
            &mut self.max_in_flight,
            &running.max_in_flight,
        );
        waiting.keep("audit", &mut self.audit, &running.audit);
        waiting.keep("power", &mut self.power, &running.power);
        waiting.keep("images", &mut self.images, &running.images);
        waiting.keep("traces", &mut self.traces, &running.traces);
        waiting.keep(
            "reload_seconds",
            &mut self.reload_seconds,
            &running.reload_seconds,
        );
        waiting.keep("folders", &mut self.folders, &running.folders);
        waiting.keep("urls", &mut self.urls, &running.urls);
        waiting.keep("cameras", &mut self.cameras, &running.cameras);
        waiting.keep("outputs", &mut self.outputs, &running.outputs);
        match (&mut self.api, &running.api) {
            (Some(api), Some(running)) => {
                waiting.keep("api.address", &mut api.address, &running.address);
                waiting.keep("api.plain_http", &mut api.plain_http, &running.plain_http);
                waiting.keep(
                    "api.max_waiting",
                    &mut api.max_waiting,
                    &running.max_waiting,
                );
                waiting.keep(
                    "api.max_waiting_bytes",
                    &mut api.max_waiting_bytes,
                    &running.max_waiting_bytes,
                );
                waiting.keep(
                    "api.upload_seconds",
                    &mut api.upload_seconds,
                    &running.upload_seconds,
                );
                // Another certificate is taken up; a listener with and one without are two.
                if api.certificate.is_some() != running.certificate.is_some() {
                    waiting.0.push("api.certificate");
                    api.certificate.clone_from(&running.certificate);
                    api.key.clone_from(&running.key);
                }
            }
            (None, None) => {}
            (api, running) => {
                waiting.0.push("api");
                api.clone_from(running);
            }
        }
        match (&mut self.page, &running.page) {
            (Some(page), Some(running)) => {
                waiting.keep("page.address", &mut page.address, &running.address);
            }
            (None, None) => {}
            (page, running) => {
                waiting.0.push("page");
                page.clone_from(running);
            }
        }
        // As of the API.
        let is_another = self.page_identity().is_some() != running.page_identity().is_some();
        if let (Some(page), Some(running)) = (&mut self.page, &running.page)
            && is_another
        {
            waiting.0.push("page.certificate");
            page.certificate.clone_from(&running.certificate);
            page.key.clone_from(&running.key);
        }
        (self, waiting.0)
    }

    /// The files, beside its own, that are read again where they change: the cascade, its policy and the manifests of its
    /// networks, what images are encoded by, and credentials.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.cascade.clone()];
        files.extend(self.policy.clone());
        if let Ok(cascade) = Cascade::load(&self.cascade) {
            let folder = ModelFolder::new(&self.models);
            files.extend(cascade.nodes().filter_map(|(_, node)| {
                let versions = folder.versions(node.network()).ok()?;
                Some(folder.manifest_path(node.network(), *versions.last()?))
            }));
        }
        for peer in self.cloud.iter().chain(&self.fog) {
            files.extend(PeerConfig::credentials(peer).cloned());
            files.extend(peer.encoders.clone());
        }
        if let Some(api) = &self.api {
            let of_api = [&api.certificate, &api.key, &api.token];
            files.extend(of_api.into_iter().flatten().cloned());
        }
        if let Some(page) = &self.page {
            let of_page = [&page.certificate, &page.key];
            files.extend(of_page.into_iter().flatten().cloned());
        }
        files
    }
}

/// Fields that wait for a restart.
#[derive(Default)]
struct Waiting(Vec<&'static str>);

impl Waiting {
    /// Puts the value that is in place in that of a new one.
    fn keep<T: PartialEq + Clone>(&mut self, name: &'static str, new: &mut T, running: &T) {
        if new != running {
            self.0.push(name);
            new.clone_from(running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ApiConfig, AuditConfig};

    #[test]
    fn what_waits_for_a_restart_is_named_and_the_rest_is_taken() {
        let running = Config {
            api: Some(ApiConfig::default()),
            ..Config::default()
        };
        let new = Config {
            deadline_ms: 7,
            max_in_flight: 3,
            audit: AuditConfig {
                share: 0.5,
                ..AuditConfig::default()
            },
            reload_seconds: 5,
            api: Some(ApiConfig {
                address: "127.0.0.1:9".parse().unwrap(),
                certificate: Some("server.pem".into()),
                key: Some("server.key".into()),
                hosts: vec!["camera".into()],
                ..ApiConfig::default()
            }),
            ..Config::default()
        };
        let (taken, waiting) = new.clone().beside(&running);
        let names = [
            "max_in_flight",
            "audit",
            "reload_seconds",
            "api.address",
            "api.certificate",
        ];
        assert_eq!(waiting, names);
        assert_eq!((taken.deadline_ms, taken.max_in_flight), (7, 8));
        let api = taken.api.unwrap();
        assert_eq!(api.address, ApiConfig::default().address);
        assert_eq!((api.certificate, api.key), (None, None));
        assert_eq!(api.hosts, ["camera"]);
        let (taken, waiting) = Config { api: None, ..new }.beside(&running);
        assert!(waiting.contains(&"api") && taken.api.is_some());
        assert_eq!(running.clone().beside(&running).1, [""; 0]);
    }
}
