//! What a peer's bytes go through before a network runs, for the fuzz targets and for replaying what they found.
//!
//! Not an interface: it changes with what it drives.

use std::sync::LazyLock;

use outpost_proto::{bounded::Bounded as _, inference::ModelInferRequest, tensor};
use outpost_runtime::Classifier;
use prost::Message as _;
use tonic::{
    Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::{
    access::{Access, Identities},
    config::Limits,
    error::ServiceError,
    input,
    metrics::Metrics,
    service::entry_parameter,
};

/// Takes an encoded inference request as far as a network's input, and as far as a cascade's images.
///
/// # Errors
/// The status that its sender gets.
pub fn infer_request(encoded: &[u8], model: &Classifier, limits: &Limits) -> Result<(), Status> {
    ModelInferRequest::check(encoded)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let request = ModelInferRequest::decode(encoded)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    if let Some(asked) = entry_parameter(&request)? {
        let present = Vec::new();
        let _ = Status::from(ServiceError::NoSuchEntry { asked, present });
    }
    let again = request.clone();
    let tensor = |request| -> Result<_, ServiceError> {
        let inputs = tensor::take_inputs(request)?;
        let tensor = input::only_input(model.manifest(), inputs)?;
        input::image_count(&tensor, limits)?;
        Ok(tensor)
    };
    let images = input::prepare(model, tensor(request)?, &limits.image(), None)?;
    let size = model.manifest().input.size as usize;
    assert_eq!(&images.shape()[1..], [3, size, size]);
    for image in input::undecoded(tensor(again)?, &limits.image())? {
        image.decode(&limits.image(), None)?;
    }
    Ok(())
}

/// Looks for the caller that the value of `authorization` belongs to.
///
/// # Errors
/// The status that its sender gets.
pub fn authorization(value: &[u8]) -> Result<(), Status> {
    static ACCESS: LazyLock<Access> = LazyLock::new(|| {
        let text = "[[identity]]\nname = \"a\"\ncertificates = [\"a\"]\n";
        Access::new(
            Identities::parse(text).expect("it holds"),
            Metrics::default(),
        )
    });
    let mut metadata = MetadataMap::new();
    if let Ok(value) = MetadataValue::try_from(value) {
        metadata.insert("authorization", value);
    }
    ACCESS.identify(&metadata, None)?;
    Ok(())
}
