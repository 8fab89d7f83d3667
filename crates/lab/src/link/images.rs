//! Labelled images of a cascade: which are taken in which order, and what came of them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use fastrand::Rng;
use serde::Deserialize;

use super::{LinkError, end::Fed, plan::Run, rows::Row};
use crate::summarise::Labels;

/// The labelled images of a folder.
#[derive(Debug)]
pub(super) struct Images {
    folder: PathBuf,
    /// By name.
    files: Vec<String>,
    labels: Labels,
}

/// What is looked at of an answer.
#[derive(Debug, Deserialize)]
struct Answer {
    id: String,
    class_id: Option<u32>,
    site: Option<String>,
    reason: Option<String>,
    error: Option<String>,
    total_ms: Option<f64>,
    wait_ms: Option<f64>,
    device_ms: Option<f64>,
    encode_ms: Option<f64>,
    link_ms: Option<f64>,
    cloud_ms: Option<f64>,
    bytes_sent: Option<u32>,
    transport: Option<String>,
}

impl Images {
    /// The images that a CSV file with the columns `file` and `label` names.
    pub(super) fn load(folder: &Path, labels: &Path) -> Result<Self, LinkError> {
        let refused = |problem: String| LinkError::Unlabelled {
            path: labels.to_owned(),
            problem,
        };
        let labels = Labels::load(labels)?;
        let mut files: Vec<_> = labels.iter().map(|(file, _)| file.to_owned()).collect();
        files.sort();
        if files.is_empty() {
            return Err(refused("it labels nothing".to_owned()));
        }
        if let Some(file) = files.iter().find(|file| !folder.join(file).is_file()) {
            return Err(refused(format!("{} has no {file:?}", folder.display())));
        }
        Ok(Self {
            folder: folder.to_owned(),
            files,
            labels,
        })
    }

    /// So many images, none twice before all were there, in an order that the seed says.
    pub(super) fn order(&self, seed: u32, count: u32) -> Vec<PathBuf> {
        let mut rng = Rng::with_seed(u64::from(seed));
        let mut names: Vec<_> = self.files.iter().collect();
        rng.shuffle(&mut names);
        let names = names.into_iter().cycle().take(count as usize);
        names.map(|name| self.folder.join(name)).collect()
    }

    /// The row of an image.
    pub(super) fn row(
        &self,
        run: &Run,
        fed: &Fed,
        last_classes: &HashMap<String, u32>,
    ) -> Result<Row, LinkError> {
        let answer: Option<Answer> =
            match &fed.answer {
                Some(answer) => Some(serde_json::from_value(answer.clone()).map_err(|source| {
                    LinkError::Line {
                        line: answer.to_string(),
                        source,
                    }
                })?),
                None => None,
            };
        let file = fed.image.file_name().unwrap_or_default();
        let file = file.to_string_lossy().into_owned();
        let said = answer.as_ref();
        let wrong = || fed.error.clone().unwrap_or_default();
        let reason = said.map_or_else(wrong, |said| {
            said.reason
                .clone()
                .or_else(|| said.error.clone())
                .unwrap_or_default()
        });
        let class = said.and_then(|said| said.class_id);
        let last_class = said.and_then(|said| last_classes.get(&said.id).copied());
        Ok(Row {
            run: run.id.clone(),
            profile: run.profile.clone(),
            cascade: run.cascade.clone(),
            policy: run.policy.to_string(),
            transport: run.transport.to_string(),
            payload: run.payload.clone(),
            arrivals: run.arrivals.to_string(),
            concurrency: run.concurrency,
            repeat: run.repeat,
            seed: run.seed,
            number: fed.number,
            label: self.labels.get(&file).map_or(u32::MAX, |class| class.0),
            file,
            class,
            last_class: last_class.or(class),
            site: said.and_then(|said| said.site.clone()).unwrap_or_default(),
            reason,
            started_ms: fed.started_ms,
            latency_ms: fed.latency_ms,
            total_ms: said.and_then(|said| said.total_ms),
            // An image that waits for its turn does so on the device.
            device_ms: said.and_then(|said| Some(said.device_ms? + said.wait_ms.unwrap_or(0.0))),
            encode_ms: said.and_then(|said| said.encode_ms),
            link_ms: said.and_then(|said| said.link_ms),
            cloud_ms: said.and_then(|said| said.cloud_ms),
            bytes_sent: said.and_then(|said| said.bytes_sent).unwrap_or(0),
            used: said.and_then(|said| said.transport.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    fn images() -> (tempfile::TempDir, Images) {
        let folder = tempfile::tempdir().unwrap();
        let labels = folder.path().join("labels.csv");
        let mut text = "file,label,author\n".to_owned();
        for number in 0..10 {
            fs::write(folder.path().join(format!("{number}.jpg")), b"").unwrap();
            text += &format!("{number}.jpg,{number},somebody\n");
        }
        fs::write(&labels, text).unwrap();
        let images = Images::load(folder.path(), &labels).unwrap();
        (folder, images)
    }

    #[test]
    fn a_seed_says_the_order_and_none_comes_twice_before_all_were_there() {
        let (_folder, images) = images();
        assert_eq!(images.order(3, 10), images.order(3, 10));
        assert_ne!(images.order(3, 10), images.order(4, 10));
        let first: BTreeSet<_> = images.order(3, 10).into_iter().collect();
        assert_eq!(first.len(), 10);
        assert_eq!(images.order(3, 25).len(), 25);
    }

    #[test]
    fn labels_that_are_none_or_of_missing_images_are_refused() {
        let (folder, _) = images();
        let labels = folder.path().join("labels.csv");
        for (text, wanted) in [
            ("file,label\n77.jpg,1\n", "has no \"77.jpg\""),
            (
                "file,label\n1.jpg,cat\n",
                "the label \"cat\" is not a class id",
            ),
            ("file,class\n1.jpg,1\n", "there is no column \"label\""),
            ("file,label\n", "labels nothing"),
        ] {
            fs::write(&labels, text).unwrap();
            let error = Images::load(folder.path(), &labels)
                .unwrap_err()
                .to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
