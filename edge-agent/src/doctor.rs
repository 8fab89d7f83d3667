//! `edge-agent doctor`: whether a device can do what its configuration says, and what to do where it cannot.
//!
//! Everything is looked at as `run` would, without taking an image up: what is here ([`models`], [`page`], [`places`], [`cameras`]),
//! credentials ([`credentials`]), who looks ([`user`]) and the services ([`services`]). One fault does not keep the others from being found.

mod cameras;
mod credentials;
mod models;
mod page;
mod places;
mod report;
mod services;
mod user;

use outpost_engine::error_chain;

use crate::{
    Agent,
    config::{Config, ConfigError},
};
pub use report::{Finding, Verdict, render};

/// What was found so far, and what is looked at.
pub(crate) struct Examination<'a> {
    findings: Vec<Finding>,
    /// Is told what is looked at now.
    progress: &'a (dyn Fn(&str) + Sync),
}

impl Examination<'_> {
    fn look_at(&self, what: &str) {
        (self.progress)(what);
    }

    fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }
}

/// Examines a device by its configuration; `progress` is told what is looked at.
///
/// Must be called in a tokio runtime.
pub async fn examine(config: &Config, progress: &(dyn Fn(&str) + Sync)) -> Vec<Finding> {
    let mut examination = Examination {
        findings: Vec::new(),
        progress,
    };
    let checked = match config.has_inputs() || config.page.is_some() {
        true => config.check().and_then(|()| config.check_run()),
        false => config.check(),
    };
    let configuration = Finding::new("configuration", "fields");
    examination.add(match checked {
        Ok(()) => configuration.good("hold"),
        Err(error) => {
            configuration.failed(error_chain(&error), "correct it in the file or the flags")
        }
    });
    if let Err(error) = config.traces.check() {
        let subject = Finding::new("configuration", "traces");
        examination.add(subject.failed(error_chain(&error), "correct `[traces]` or the flags"));
    }
    models::examine(config, &mut examination).await;
    credentials::examine(config, &mut examination);
    places::examine(config, &mut examination);
    user::examine(config, &mut examination);
    cameras::examine(config, &mut examination).await;
    page::examine(config, &mut examination);
    examination.look_at("the device as a whole");
    let device = Finding::new("device", "start");
    // Off the async threads, as a program that runs does it.
    let (runtime, owned) = (tokio::runtime::Handle::current(), config.clone());
    let started = tokio::task::spawn_blocking(move || {
        let _entered = runtime.enter();
        Agent::start(&owned)
    });
    let agent = match started.await {
        Ok(Ok(agent)) => {
            examination.add(device.good("cascade, policy, networks and peers go together"));
            Some(agent)
        }
        Ok(Err(error)) => {
            examination.add(device.failed(
                error_chain(&error),
                "do what the message says; `run` and `classify` would not start",
            ));
            None
        }
        Err(_) => {
            examination.add(device.failed(
                "a library crashed over one of the files",
                "put the models' files back as they were; if that does not help, please report it",
            ));
            None
        }
    };
    services::examine(config, agent.as_ref(), &mut examination).await;
    examination.findings
}

/// What is found where there is no configuration to examine.
pub fn unreadable(error: &ConfigError) -> Finding {
    let advice = "correct the file or the flags: edge-agent.example.toml shows every field";
    Finding::new("configuration", "fields").failed(error_chain(error), advice)
}
