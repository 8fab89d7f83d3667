//! A trace across a call: the W3C's Trace Context in gRPC's metadata.

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{KeyRef, MetadataKey, MetadataMap, MetadataValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Writes the current span into the metadata of a call, as `traceparent` and `tracestate`; nothing where it belongs to
/// no trace.
pub fn inject(metadata: &mut MetadataMap) {
    let span = Span::current();
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut Carrier(metadata));
    }
}

/// Makes `span`, which was not entered yet, a part of the trace that the metadata of a call tells of. Metadata that
/// tells of none, or nonsense, leaves it as it is.
pub fn follow(span: &Span, metadata: &MetadataMap) {
    if !span.is_disabled() {
        let context = TraceContextPropagator::new().extract(&Incoming(metadata));
        // Refused where no traces are sent.
        let _ = span.set_parent(context);
    }
}

struct Carrier<'a>(&'a mut MetadataMap);

impl Injector for Carrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = MetadataKey::from_bytes(key.as_bytes());
        if let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value)) {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'a>(&'a MetadataMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        let ascii = |key| match key {
            KeyRef::Ascii(key) => Some(key.as_str()),
            KeyRef::Binary(_) => None,
        };
        self.0.keys().filter_map(ascii).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceContextExt, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::{debug_span, subscriber::with_default};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn traced(work: impl FnOnce()) {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        with_default(tracing_subscriber::registry().with(layer), work);
    }

    #[test]
    fn a_trace_goes_on_at_the_other_side_of_a_call() {
        traced(|| {
            let mut metadata = MetadataMap::new();
            let caller = debug_span!("offload");
            caller.in_scope(|| inject(&mut metadata));
            let header = metadata.get("traceparent").unwrap().to_str().unwrap();
            let sent = caller.context().span().span_context().clone();
            let expected = format!("00-{}-{}-01", sent.trace_id(), sent.span_id());
            assert_eq!(header, expected);

            let served = debug_span!("infer");
            follow(&served, &metadata);
            let found = served.context().span().span_context().clone();
            assert_eq!(found.trace_id(), sent.trace_id());
            assert_ne!(found.span_id(), sent.span_id());
        });
    }

    #[test]
    fn nonsense_begins_a_trace_of_its_own() {
        traced(|| {
            for nonsense in ["", "00", "00-0-0-01", "ff-----", &"0".repeat(4096)] {
                let mut metadata = MetadataMap::new();
                metadata.insert("traceparent", nonsense.parse().unwrap());
                let served = debug_span!("infer");
                follow(&served, &metadata);
                assert!(served.context().span().span_context().is_valid());
            }
        });
    }

    #[test]
    fn without_traces_nothing_is_written() {
        let mut metadata = MetadataMap::new();
        debug_span!("offload").in_scope(|| inject(&mut metadata));
        assert!(metadata.is_empty());
    }
}
