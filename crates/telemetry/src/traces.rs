//! Where traces go.

use http::Uri;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use serde::Deserialize;
use tonic::transport::ClientTlsConfig;
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::{FilterFn, LevelFilter},
    registry::LookupSpan,
};

/// Where traces go and how many.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// A collector that speaks OpenTelemetry's protocol over gRPC, such as `http://127.0.0.1:4317`. Default none.
    pub endpoint: Option<String>,
    /// The share of traces that begin here and are sent, 0 to 1; one that began elsewhere is sent where it was chosen
    /// there. Default 1.
    pub sample_ratio: f64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            sample_ratio: 1.0,
        }
    }
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The endpoint is no address.
    #[error(
        "traces cannot go to {0:?}: give `traces.endpoint` as http://host:4317 or https://host:4317"
    )]
    Endpoint(String),
    /// The share is none.
    #[error("{0} is no share of traces: give `traces.sample_ratio` from 0 to 1")]
    Ratio(f64),
    /// What sends them does not start.
    #[error("cannot send traces")]
    Exporter(#[from] ExporterBuildError),
}

impl TracesConfig {
    /// Checks the configuration without sending anything.
    ///
    /// # Errors
    /// [`TracesError`], which names the field at fault.
    pub fn check(&self) -> Result<(), TracesError> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(TracesError::Ratio(self.sample_ratio));
        }
        if let Some(endpoint) = &self.endpoint {
            let uri: Option<Uri> = endpoint.parse().ok();
            let scheme = uri.as_ref().and_then(Uri::scheme_str);
            if !matches!(scheme, Some("http" | "https")) {
                return Err(TracesError::Endpoint(endpoint.clone()));
            }
        }
        Ok(())
    }

    pub(crate) fn provider(
        &self,
        program: &'static str,
    ) -> Result<Option<SdkTracerProvider>, TracesError> {
        self.check()?;
        let Some(endpoint) = &self.endpoint else {
            return Ok(None);
        };
        let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        if endpoint.starts_with("https:") {
            exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        }
        let sampler = Sampler::TraceIdRatioBased(self.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter.build()?)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(Resource::builder().with_service_name(program).build())
            .build();
        Ok(Some(provider))
    }
}

/// Makes traces of the project's own spans, and of the events in them that a log would show as well.
pub(crate) fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(
    provider: &SdkTracerProvider,
) -> impl Layer<S> {
    let is_ours = FilterFn::new(|metadata| {
        metadata.target().starts_with("outpost")
            && (metadata.is_span() || *metadata.level() <= Level::INFO)
    });
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("outpost"))
        .with_filter(is_ours.with_max_level_hint(LevelFilter::DEBUG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_endpoint_or_share_is_named() {
        let with_endpoint = |endpoint: &str| TracesConfig {
            endpoint: Some(endpoint.to_owned()),
            ..TracesConfig::default()
        };
        for wrong in ["collector", "collector:4317", "ftp://collector", "http://"] {
            let error = with_endpoint(wrong).check().unwrap_err();
            assert!(error.to_string().contains("traces.endpoint"), "{error}");
        }
        for right in ["http://127.0.0.1:4317", "https://collector.example:4317"] {
            with_endpoint(right).check().unwrap();
        }
        for sample_ratio in [-0.1, 1.1, f64::NAN] {
            let config = TracesConfig {
                sample_ratio,
                ..TracesConfig::default()
            };
            let error = config.check().unwrap_err();
            assert!(error.to_string().contains("sample_ratio"), "{error}");
        }
    }
}
