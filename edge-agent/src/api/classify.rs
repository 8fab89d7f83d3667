//! `POST /v1/classify`: an image in, its answer out.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{
        FromRequest, Multipart, Query, Request, State,
        multipart::MultipartError,
        rejection::{BytesRejection, FailedToBufferBody, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::{Context, problem::Problem};
use crate::{
    agent::{Content, Image},
    config::API,
    event::Event,
    intake::{Room, Unanswered},
    metrics::Metrics,
    record::{FailureCause, Record},
};

/// The part of a form that holds the image.
const PART: &str = "image";
/// Longest name of an image that is kept.
const MOST_NAME_BYTES: usize = 255;

/// How an image is to be answered.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Milliseconds to its answer, where less than `deadline_ms` of the configuration.
    #[param(minimum = 1)]
    deadline_ms: Option<u64>,
    /// What it is called in its answer; else the file's name in a form, or `image`.
    name: Option<String>,
}

/// A form with an image.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a form")]
pub(super) struct Form {
    /// JPEG, PNG or WebP.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
}

/// Answers an image: the body is the image (JPEG, PNG or WebP), or a form whose part `image` is.
#[utoipa::path(
    post,
    path = "/v1/classify",
    operation_id = "classify",
    params(Parameters),
    request_body(
        description = "JPEG, PNG or WebP",
        content(
            (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"),
            (Vec<u8> = "application/octet-stream"), (Form = "multipart/form-data"),
        )
    ),
    responses(
        (status = 200, description = "The answer", body = Event),
        (status = 400, description = "A parameter or the form is at fault", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing or wrong", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site called", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "More bytes or pixels than the limits allow", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The content type is none of an image or a form", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The image is empty, corrupt or of an unknown format", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "A network on the device failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many wait, an output is away, the program ends, or nobody could answer: come back after `Retry-After`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn classify(
    State(context): State<Context>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let Query(parameters) =
        parameters.map_err(|error| {
            let says = format!("{}: `deadline_ms` is a whole number of milliseconds, from 1 on, and `name` a text; there are no others", error.body_text());
            Problem::new(StatusCode::BAD_REQUEST, says)
        })?;
    if parameters.deadline_ms == Some(0) {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "`deadline_ms` is 0: give one millisecond at least",
        ));
    }
    if context.ending.is_cancelled() {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the program ends: come back once it runs again",
        ));
    }
    let unanswered = |why| unanswered(&context.metrics, why);
    let caller = context.intake.caller().map_err(unanswered)?;
    let room = caller.room().clone();
    let request = request.map(|body| counted(body, room.clone()));
    let read = timeout(context.upload, read(request, context.max_image_bytes));
    let read = read.await;
    if room.is_full() {
        return Err(unanswered(Unanswered::NoRoom));
    }
    let (encoded, file_name) = read.map_err(|_| {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the image did not come within {:?} (`api.upload_seconds`): send it faster, or a smaller one",
                context.upload
            ),
        )
    })??;
    let mut name = parameters.name.or(file_name).unwrap_or(PART.to_owned());
    name.truncate(name.floor_char_boundary(MOST_NAME_BYTES));
    let image = Image {
        name,
        content: Content::Encoded(encoded),
        deadline: parameters.deadline_ms.map(Duration::from_millis),
        id: None,
    };
    let answer = context.intake.answer(caller, API.into(), image);
    let event = answer.await.map_err(unanswered)?;
    match &event.record {
        Record::Answered(_) => Ok(Json(&*event).into_response()),
        Record::Failed { cause, error, .. } => Err(Problem::new(status(*cause), error.clone())),
    }
}

/// A body that ends where there is no room for more of it.
fn counted(body: Body, room: Arc<Room>) -> Body {
    let chunks = body.into_data_stream().map(move |chunk| {
        let chunk = chunk?;
        room.take(chunk.len()).map_err(axum::Error::new)?;
        Ok::<_, axum::Error>(chunk)
    });
    Body::from_stream(chunks)
}

/// Counts an image that was not taken up, and says why.
fn unanswered(metrics: &Metrics, why: Unanswered) -> Problem {
    let says = match why {
        Unanswered::Full => {
            "too many images wait already (`api.max_waiting`): come back in a second".to_owned()
        }
        Unanswered::NoRoom => {
            "the images of all callers have too many bytes already (`api.max_waiting_bytes`): come back in a second".to_owned()
        }
        Unanswered::HeldUp { output } => format!(
            "answers wait for {output}, which is away or too slow, and no image is taken until then: see the program's log, and come back in a second"
        ),
        Unanswered::Failed => {
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "see the program's log");
        }
    };
    metrics.dropped(API);
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, says)
}

const fn status(cause: FailureCause) -> StatusCode {
    match cause {
        FailureCause::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        FailureCause::NotAnImage | FailureCause::Unreadable => StatusCode::UNPROCESSABLE_ENTITY,
        FailureCause::NetworkFailed => StatusCode::INTERNAL_SERVER_ERROR,
        FailureCause::NoAnswer | FailureCause::TooManyFiles => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The image of a request, and what its file is called.
async fn read(request: Request, limit: usize) -> Result<(Bytes, Option<String>), Problem> {
    match kind(request.headers()) {
        Some(Kind::Image) => match Bytes::from_request(request, &()).await {
            Ok(bytes) => Ok((bytes, None)),
            Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_))) => {
                Err(too_large(limit))
            }
            Err(error) => Err(Problem::new(error.status(), error.body_text())),
        },
        Some(Kind::Form) => form(request, limit).await,
        None => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the image as the body, with `Content-Type: image/jpeg` (or png, webp, or application/octet-stream), or as the part `image` of a multipart/form-data",
        )),
    }
}

enum Kind {
    Image,
    Form,
}

fn kind(headers: &HeaderMap) -> Option<Kind> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?.trim().to_ascii_lowercase();
    match essence.as_str() {
        "multipart/form-data" => Some(Kind::Form),
        // Which format it is, its first bytes say.
        "application/octet-stream" => Some(Kind::Image),
        image if image.starts_with("image/") => Some(Kind::Image),
        _ => None,
    }
}

async fn form(request: Request, limit: usize) -> Result<(Bytes, Option<String>), Problem> {
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let failed = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limit),
        status => Problem::new(status, error.body_text()),
    };
    while let Some(part) = parts.next_field().await.map_err(failed)? {
        if part.name() == Some(PART) {
            let file_name = part.file_name().map(str::to_owned);
            return Ok((part.bytes().await.map_err(failed)?, file_name));
        }
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "the form has no part `image`: send the image as one",
    ))
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the image has more than {limit} bytes: shrink it, or raise `images.max_bytes`"),
    )
}
