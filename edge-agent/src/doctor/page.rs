//! The page that makes a phone a device, and what it runs.

use outpost_engine::error_chain;

use super::{Examination, Finding};
use crate::{config::Config, page::Loaded};

/// Looks at the page's files, where there is one.
pub(super) fn examine(config: &Config, examination: &mut Examination<'_>) {
    if config.page.is_some() {
        examination.look_at("the page");
    }
    let Some(loaded) = Loaded::load(config).transpose() else {
        return;
    };
    let subject = Finding::new("page", "files");
    examination.add(match loaded {
        Ok(page) if page.is_whole() => subject.good(page.summary()),
        Ok(page) => subject.failed(
            page.summary(),
            "make the page with scripts/build-web and name its folder as `page.folder`",
        ),
        Err(error) => subject.failed(error_chain(&error), "do what the message says"),
    });
}
