//! Whose answer it is.

use std::{fmt, str::FromStr};

use outpost_cascade::Site;

/// Whose answer it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedBy {
    /// The site.
    pub site: Site,
    /// The node of the cascade.
    pub node: String,
}

impl DecidedBy {
    /// Whose a reply is, and the temperature that what was said still wants: whom the peer `named`, who has scaled it, or the
    /// node that was asked.
    pub fn of_reply(named: Option<&Self>, asked: Self, temperature: f32) -> (Self, f32) {
        match named {
            Some(named) => (named.clone(), 1.0),
            None => (asked, temperature),
        }
    }
}

impl FromStr for DecidedBy {
    type Err = ();

    /// Reads `SITE/NODE`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (site, node) = text.split_once('/').ok_or(())?;
        let sites = [Site::Device, Site::Fog, Site::Cloud];
        let site = sites.into_iter().find(|known| known.to_string() == site);
        Ok(Self {
            site: site.ok_or(())?,
            node: node.to_owned(),
        })
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.node)
    }
}
