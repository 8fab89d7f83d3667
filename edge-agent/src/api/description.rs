//! `/openapi.json`: the description of the API, out of the types that it speaks.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Outpost edge agent",
        description = "Answers easy images on the device and sends the hard ones to the cloud.",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        super::classify::classify,
        super::answers::answers,
        super::state::state,
        super::state::change
    ),
    modifiers(&Token),
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "The token of `api.token`, where the configuration has one",
            ))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
        let with_token = SecurityRequirement::new("token", [] as [&str; 0]);
        openapi.security = Some(vec![with_token, SecurityRequirement::default()]);
    }
}

/// The description.
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
