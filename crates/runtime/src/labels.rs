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

    /// The class of a name, in any case, or of one of the names that stand in one, separated by commas; or of a number.
    pub fn find(&self, name: &str) -> Option<ClassId> {
        let is_it = |label: &String| {
            label.eq_ignore_ascii_case(name)
                || label
                    .split(',')
                    .any(|one| one.trim().eq_ignore_ascii_case(name))
        };
        let number = || name.parse().ok().filter(|&number| number < self.len());
        let class = self.0.iter().position(is_it).or_else(number)?;
        Some(ClassId(class as u32))
    }

    /// The name of a class, or its number where the network has no names.
    pub fn name(&self, class: ClassId) -> String {
        self.0
            .get(class.0 as usize)
            .cloned()
            .unwrap_or_else(|| class.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_found_by_a_name_or_by_its_number() {
        let labels = Labels::parse("tench, Tinca tinca\nman\nmanhole cover");
        let find = |name| labels.find(name).map(|class| class.0);
        assert_eq!(find("tench"), Some(0));
        assert_eq!(find("Tinca Tinca"), Some(0));
        assert_eq!(find("man"), Some(1));
        assert_eq!(find("2"), Some(2));
        assert_eq!(find("3"), None);
        assert_eq!(find("woman"), None);
    }
}
