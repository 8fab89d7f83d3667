//! Names of classes, for people.

use std::sync::Arc;

use crate::probabilities::ClassId;

/// Names of a network's classes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Arc<[String]>);

impl Labels {
    /// Takes a name a line; line N, from 0, names class N.
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.lines().map(str::to_owned).collect())
    }

    /// How many classes have a name.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The name of a class, or its number where the network has no names.
    pub fn name(&self, class: ClassId) -> String {
        self.0
            .get(class.0 as usize)
            .cloned()
            .unwrap_or_else(|| class.to_string())
    }
}
