//! Log lines, and traces that a device and the services behind it share.
//!
//! - [`Telemetry`] begins both, as a program is asked to, and sends the rest of the traces at its end.
//! - [`TracesConfig`] says where traces go, as OpenTelemetry's protocol over gRPC, and how many of them.
//! - [`inject`] writes the trace of the caller into a call's metadata, [`follow`] takes it up at the other side, both
//!   as the Trace Context of the W3C.
//!
//! Spans are of the level `debug` and cost nothing while traces go nowhere and the log does not ask for them.

mod propagation;
mod traces;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use propagation::{follow, inject};
pub use traces::{TracesConfig, TracesError};

/// How log lines look, on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The telemetry of a program, until its end.
#[derive(Debug)]
#[must_use = "what was traced last is sent by `end`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Begins to write log lines, as `RUST_LOG` asks for them or else of the level `default`, and to send traces of
    /// `program` where there is an endpoint. Must be called once, in a tokio runtime.
    ///
    /// # Errors
    /// [`TracesError`], where the configuration does not hold. An endpoint that is away is told in the log, later.
    pub fn start(
        program: &'static str,
        format: LogFormat,
        default: &str,
        traces: &TracesConfig,
    ) -> Result<Self, TracesError> {
        let provider = traces.provider(program)?;
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| default.into())
            // It writes down the headers of every call, with callers' tokens.
            .add_directive("h2=info".parse().expect("a target and a level"));
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(provider.as_ref().map(traces::layer))
            .init();
        Ok(Self { provider })
    }

    /// Sends what was traced last, for some seconds at most.
    pub async fn end(self) {
        let Some(provider) = self.provider else {
            return;
        };
        let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
