//! `GET /v1/answers`: what is said about images, as server-sent events.

use std::convert::Infallible;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures::{StreamExt, stream};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{Context, problem::Problem};
use crate::event::{Event, Said};

/// Listeners at a time.
pub(crate) const MOST_LISTENERS: usize = 64;

/// All answers as they come, whatever input their images came from, as server-sent events.
///
/// The event's name is its `kind`, or `missed`, with a number, where the caller was too slow. A caller that names the last event it has had in `Last-Event-ID` gets those since, as far as
/// they are still known: the last 256.
#[utoipa::path(
    get,
    path = "/v1/answers",
    operation_id = "answers",
    params(("Last-Event-ID" = Option<String>, Header, description = "The last event that the caller has had")),
    responses(
        (status = 200, description = "Events whose data is an `Event`", body = Event, content_type = "text/event-stream"),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many listen", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn answers(
    State(context): State<Context>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Ok(place) = context.listeners.clone().try_acquire_owned() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{MOST_LISTENERS} listen already: close a page, or come back later"),
        ));
    };
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok());
    let (missed, to_come) = context.announcer.listen(last);
    let announcer = context.announcer.clone();
    let sent = move |said: &Said| {
        sse::Event::default()
            .event(said.event.kind.as_str())
            .id(announcer.place(said))
            .json_data(&*said.event)
            .expect("an event has no keys but strings")
    };
    let missed: Vec<_> = missed.iter().map(&sent).collect();
    let missed = stream::iter(missed);
    let to_come = BroadcastStream::new(to_come).map(move |said| {
        // As long as it listens.
        let _place = &place;
        match said {
            Ok(said) => sent(&said),
            Err(BroadcastStreamRecvError::Lagged(missed)) => sse::Event::default()
                .event("missed")
                .data(missed.to_string()),
        }
    });
    let ending = context.ending.cancelled_owned();
    let events = missed
        .chain(to_come)
        .take_until(ending)
        .map(Ok::<_, Infallible>);
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response();
    // A proxy that collects them would hold them up.
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", no);
    let cache = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, cache);
    Ok(response)
}
