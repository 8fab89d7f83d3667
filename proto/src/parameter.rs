//! Parameters of requests and responses that hold a text.

use crate::inference::{InferParameter, infer_parameter::ParameterChoice};

/// A parameter that holds `text`.
pub fn from_text(text: impl Into<String>) -> InferParameter {
    InferParameter {
        parameter_choice: Some(ParameterChoice::StringParam(text.into())),
    }
}

/// The text of a parameter; `None` where it holds something else.
pub fn text(parameter: &InferParameter) -> Option<&str> {
    match &parameter.parameter_choice {
        Some(ParameterChoice::StringParam(text)) => Some(text),
        _ => None,
    }
}
