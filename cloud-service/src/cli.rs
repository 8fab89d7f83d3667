//! The command line: flags over `OUTPOST_*` variables over the configuration file.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use outpost_transport::development_certificates::{self, ExistingFiles};

use crate::{
    config::{Config, Tls},
    server::Server,
};

/// Serves networks over the Open Inference Protocol, on HTTP/2 and HTTP/3.
#[derive(Parser)]
#[command(name = "cloud-service", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the networks of a model folder.
    Serve(Serve),
    /// Makes a certificate authority and a server certificate for development.
    DevelopmentCertificates {
        /// Folder for ca.pem, server.pem and server.key.
        #[arg(long)]
        out: PathBuf,
        /// Name or address that the certificate is for; may be repeated.
        #[arg(long = "host", default_values = ["localhost", "127.0.0.1", "::1"])]
        hosts: Vec<String>,
        /// Days that the certificate is valid.
        #[arg(long, default_value_t = 30)]
        days: u32,
        /// Replace files that are there.
        #[arg(long)]
        overwrite: bool,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// Configuration file (see cloud-service.example.toml).
    #[arg(long, env = "OUTPOST_CLOUD_CONFIG")]
    config: Option<PathBuf>,
    /// Address and port of both transports.
    #[arg(long, env = "OUTPOST_ADDRESS")]
    address: Option<SocketAddr>,
    /// The model folder.
    #[arg(long, env = "OUTPOST_MODELS")]
    models: Option<PathBuf>,
    /// A network to serve; may be repeated.
    #[arg(long = "network")]
    networks: Vec<String>,
    /// Certificate chain, PEM.
    #[arg(long, env = "OUTPOST_CERTIFICATE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Private key, PEM.
    #[arg(long, env = "OUTPOST_KEY", requires = "certificate")]
    key: Option<PathBuf>,
}

/// Does what the command line says; `serve` ends with SIGINT or SIGTERM.
///
/// # Errors
/// What kept the service from starting or ending well.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Serve(serve) => self::serve(serve).await,
        Command::DevelopmentCertificates {
            out,
            hosts,
            days,
            overwrite,
        } => {
            let existing = if overwrite {
                ExistingFiles::Replace
            } else {
                ExistingFiles::Keep
            };
            let files = development_certificates::generate(&out, &hosts, days, existing)?;
            println!("{}", files.authority.display());
            Ok(())
        }
    }
}

async fn serve(serve: Serve) -> anyhow::Result<()> {
    let mut config = match &serve.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    config.address = serve.address.unwrap_or(config.address);
    config.models = serve.models.unwrap_or(config.models);
    if !serve.networks.is_empty() {
        config.networks = serve.networks;
    }
    if let (Some(certificate), Some(key)) = (serve.certificate, serve.key) {
        config.tls = Some(Tls { certificate, key });
    }
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let server = Server::start(config).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("cannot listen for SIGTERM")?;
    println!(
        "serving {} on {scheme}://{}",
        server.models().join(", "),
        server.local_addr()
    );
    server
        .serve(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            tracing::info!("draining");
        })
        .await?;
    Ok(())
}
