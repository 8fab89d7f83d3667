//! The command line: flags over `OUTPOST_*` variables over the configuration file.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use outpost_telemetry::{LogFormat, Telemetry, TracesConfig};
use outpost_transport::{
    Congestion,
    development_certificates::{self, ExistingFiles, Subjects},
};

use crate::{
    access::new_token,
    config::{AccessConfig, Config, ConfigError, Tls},
    server::Server,
};

/// Serves networks over the Open Inference Protocol, on HTTP/2 and HTTP/3.
#[derive(Parser)]
#[command(name = "cloud-service", version)]
pub struct Arguments {
    /// How log lines are written to stderr; `RUST_LOG` says which.
    #[arg(
        long,
        env = "OUTPOST_LOG_FORMAT",
        value_enum,
        default_value_t,
        global = true
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the networks of a model folder.
    Serve(Serve),
    /// Checks a configuration, its certificate and its networks as `serve` would, and ends.
    CheckConfig(Serve),
    /// Makes a token for a caller, and prints the entry for the file of identities.
    NewToken {
        /// Name of the caller's identity.
        #[arg(long)]
        name: String,
        /// File to write the token to; only its owner may read it.
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes a certificate authority and certificates for development.
    DevelopmentCertificates {
        /// Folder for ca.pem, server.pem and server.key, and NAME.pem and NAME.key of every client.
        #[arg(long)]
        out: PathBuf,
        /// Client to make a certificate for; may be repeated.
        #[arg(long = "client", value_name = "NAME")]
        clients: Vec<String>,
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
    /// Address and port of metrics, health and the status page, plain HTTP.
    #[arg(long, env = "OUTPOST_OPERATIONS_ADDRESS")]
    operations_address: Option<SocketAddr>,
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
    /// How fast may be sent: cubic, bbr, which goes by bandwidth and round trip instead of losses, or new-reno.
    #[arg(long, env = "OUTPOST_CONGESTION", value_name = "ALGORITHM")]
    congestion: Option<Congestion>,
    /// Take calls over HTTP/3 before a handshake is done, from clients that were here before.
    #[arg(long, env = "OUTPOST_EARLY_DATA")]
    early_data: bool,
    /// File of the identities that may call.
    #[arg(long, env = "OUTPOST_IDENTITIES")]
    identities: Option<PathBuf>,
    /// Collector of traces that speaks OTLP over gRPC: http://host:4317.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// Does what the command line says; `serve` ends with SIGINT or SIGTERM.
///
/// # Errors
/// What kept the service from starting or ending well.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let telemetry = |traces: &TracesConfig| {
        Telemetry::start("cloud-service", arguments.log_format, "info", traces)
    };
    match arguments.command {
        Command::Serve(serve) => {
            let config = serve.config()?;
            let telemetry = telemetry(&config.traces)?;
            let served = self::serve(config).await;
            telemetry.end().await;
            served
        }
        Command::CheckConfig(serve) => {
            let _telemetry = telemetry(&TracesConfig::default())?;
            let checked = Server::check(serve.config()?).await?;
            print!("{checked}");
            Ok(())
        }
        Command::NewToken { name, out } => {
            let entry = new_token(&name, &out).with_context(|| {
                let path = out.display();
                format!("cannot write the token {path}: name a file that is not there yet")
            })?;
            print!("{entry}");
            Ok(())
        }
        Command::DevelopmentCertificates {
            out,
            clients,
            hosts,
            days,
            overwrite,
        } => {
            let existing = if overwrite {
                ExistingFiles::Replace
            } else {
                ExistingFiles::Keep
            };
            let files = development_certificates::generate(
                &out,
                &Subjects { hosts, clients },
                days,
                existing,
            )?;
            println!("{}", files.authority.display());
            Ok(())
        }
    }
}

impl Serve {
    /// The configuration file with the flags over it.
    fn config(self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        config.address = self.address.unwrap_or(config.address);
        config.operations_address = self.operations_address.or(config.operations_address);
        config.congestion = self.congestion.or(config.congestion);
        config.early_data |= self.early_data;
        config.models = self.models.unwrap_or(config.models);
        if !self.networks.is_empty() {
            config.networks = self.networks;
        }
        if let Some(identities) = self.identities {
            config.access = Some(AccessConfig { identities });
        }
        if let (Some(certificate), Some(key)) = (self.certificate, self.key) {
            match &mut config.tls {
                Some(tls) => (tls.certificate, tls.key) = (certificate, key),
                None => config.tls = Some(Tls::new(certificate, key)),
            }
        }
        if let Some(endpoint) = self.otlp_endpoint {
            config.traces.endpoint = Some(endpoint);
        }
        Ok(config)
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let server = Server::start(config).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("cannot listen for SIGTERM")?;
    let networks = server.models();
    let networks = if networks.is_empty() {
        "no network yet".to_owned()
    } else {
        networks.join(", ")
    };
    println!("serving {networks} on {scheme}://{}", server.local_addr());
    if let Some(address) = server.operations_addr() {
        println!("metrics, health and status on http://{address}");
    }
    if server.has_page() {
        println!("the page on {scheme}://{}/", server.local_addr());
    }
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
