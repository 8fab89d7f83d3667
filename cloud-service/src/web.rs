//! One port for gRPC and for what is none: which request goes where, once browsers are served.

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
};
use tonic::{Status, service::Routes};

use crate::page::Page;

/// The services, for what is gRPC; beside them the page, for the rest.
pub(crate) fn beside(routes: Routes, page: Option<Page>) -> Routes {
    let services = routes
        .into_axum_router()
        .route_layer(middleware::from_fn(only_grpc));
    let router: Router = match page {
        Some(page) => services.fallback_service(page),
        None => services.fallback(nothing),
    };
    router.into()
}

/// Whether a request is gRPC by what it says of its content; gRPC-Web is by now.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The answer to gRPC that asks for a service that there is not.
pub(crate) fn no_service() -> Response {
    Status::unimplemented("there is no such service here").into_http()
}

/// Refuses what is no gRPC: a page of any origin can send a form or a text without being asked who it is.
async fn only_grpc(request: Request, next: Next) -> Response {
    match is_grpc(request.headers()) {
        true => next.run(request).await,
        false => text(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this takes gRPC: application/grpc, or application/grpc-web+proto from browsers\n",
        ),
    }
}

async fn nothing(request: Request) -> Response {
    match is_grpc(request.headers()) {
        true => no_service(),
        false => text(
            StatusCode::NOT_FOUND,
            "there is no page here: [page] in the configuration has one served\n",
        ),
    }
}

fn text(status: StatusCode, words: &'static str) -> Response {
    let mut response = Response::new(Body::from(words));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
