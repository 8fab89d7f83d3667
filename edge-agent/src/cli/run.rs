//! `edge-agent run`: the program that is left running.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::common::Common;
use crate::{
    Program, Source,
    config::{Config, ConfigError},
};

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) common: Common,
    /// Address and port of the HTTP API and the page.
    #[arg(long, env = "OUTPOST_API_ADDRESS")]
    api_address: Option<SocketAddr>,
    /// Address and port of the page that makes a phone in the same network a device of its own.
    #[arg(long, env = "OUTPOST_PAGE_ADDRESS")]
    page_address: Option<SocketAddr>,
}

impl Run {
    /// The configuration, with what the flags say.
    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let mut config = self.common.config()?;
        if let Some(address) = self.api_address {
            config.api.get_or_insert_default().address = address;
        }
        if let Some(address) = self.page_address {
            config.page.get_or_insert_default().address = address;
        }
        Ok(config)
    }
}

/// Where the configuration comes from, each time that it is read.
pub(super) fn source(arguments: Run) -> Source {
    let path = arguments.common.config.clone();
    Source::new(path, move || arguments.config())
}

/// Runs until SIGINT or SIGTERM, by a configuration that was loaded from `source`.
///
/// # Errors
/// What kept the program from starting.
pub(super) async fn run(config: Config, source: Source) -> anyhow::Result<()> {
    // One that comes while the networks are loaded does not end the program; the files are looked at afterwards in any case.
    let _ignored = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let program = Program::start(&config, source)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    if let Some(address) = program.api_addr() {
        let is_tls = config
            .api
            .as_ref()
            .is_some_and(|api| api.certificate.is_some());
        let scheme = if is_tls { "https" } else { "http" };
        println!("answering at {scheme}://{address}");
    }
    if let Some(address) = program.page_addr() {
        let scheme = match config.page_identity() {
            Some(_) => "https",
            None => "http",
        };
        println!("a page that makes a phone a device at {scheme}://{address}/");
    }
    for folder in &config.folders {
        println!("answering what comes to {}", folder.path.display());
    }
    for url in &config.urls {
        println!("answering what {} gives", url.name);
    }
    for camera in &config.cameras {
        println!("answering what {} gives", camera.name);
    }
    program
        .run(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        })
        .await;
    Ok(())
}
