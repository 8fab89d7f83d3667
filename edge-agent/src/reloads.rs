//! What came of it when the configuration and its files were last read again.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

/// What came of a reload.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Reload {
    /// When, RFC 3339 in UTC.
    pub(crate) at: String,
    /// `applied`, or `refused`: then what was before still holds.
    pub(crate) result: &'static str,
    /// Why it was refused, and what to do.
    pub(crate) error: Option<String>,
    /// Fields of the configuration, and files that it names, whose changes took effect.
    pub(crate) changed: Vec<String>,
    /// Fields of the configuration whose new values wait for a restart.
    pub(crate) restart_for: Vec<&'static str>,
}

/// What came of the latest reload. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reloads(Arc<Mutex<Option<Reload>>>);

impl Reload {
    /// One that was made now.
    pub(crate) fn new(result: &'static str) -> Self {
        let now = OffsetDateTime::now_utc().format(&Rfc3339);
        Self {
            at: now.expect("a time of this age can be written so"),
            result,
            error: None,
            changed: Vec::new(),
            restart_for: Vec::new(),
        }
    }
}

impl Reloads {
    /// None where there was none.
    pub(crate) fn latest(&self) -> Option<Reload> {
        self.lock().clone()
    }

    /// Whether the latest was refused for this cause.
    pub(crate) fn was_refused_for(&self, cause: &str) -> bool {
        let latest = self.lock();
        let error = latest.as_ref().and_then(|reload| reload.error.as_deref());
        error == Some(cause)
    }

    pub(crate) fn note(&self, reload: Reload) {
        *self.lock() = Some(reload);
    }

    /// The state is whole after every statement.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Reload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
