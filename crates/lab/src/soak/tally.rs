//! What became of the images of a soak, and whether that is what was promised.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use serde::Deserialize;

use crate::percentile::nearest_rank;

/// An answer may be this much later than the deadline.
const LATE_MS: f64 = 20.0;
/// What the most resident memory may be more in the second half of a life than in the first and still be flat: the larger of
/// both. What it is in between goes by what there is to do.
const GROWTH_MB: f64 = 5.0;
const GROWTH: f64 = 0.1;

/// What was said about an image, as far as a soak looks at it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Said {
    pub(super) image: String,
    pub(super) kind: Kind,
    #[serde(rename = "final")]
    pub(super) is_final: bool,
    #[serde(default)]
    pub(super) site: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) total_ms: f64,
}

/// What kind of saying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Answer,
    Correction,
    Confirmation,
    Failure,
}

/// A life shorter than this says nothing about memory.
const LIFE: Duration = Duration::from_secs(120);

/// Resident memory at a time, in megabytes.
pub(super) type Memory = (Duration, f64);

/// All that was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Images that the device took: files that were put there, and calls that had their answer.
    pub(super) accepted: Vec<String>,
    /// What callers were told.
    pub(super) replies: Vec<Said>,
    /// Milliseconds from a call to its reply, by the caller's clock.
    pub(super) waits: Vec<f64>,
    /// The lines of the output, with the time at which they were seen.
    pub(super) lines: Vec<(Duration, Said)>,
    /// Bytes of the output that have been read.
    pub(super) read_bytes: u64,
    /// Calls that were told to come back.
    pub(super) refused: usize,
    /// Calls without a reply, as the device died or was not there.
    pub(super) unanswered: usize,
    /// The device's memory in each of its lives.
    pub(super) device: Vec<Vec<Memory>>,
    /// The cloud's memory in each of its lives.
    pub(super) cloud: Vec<Vec<Memory>>,
}

/// One promise, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) promise: String,
    pub(super) found: String,
    pub(super) holds: bool,
}

impl Seen {
    /// The first thing that was said about each image.
    pub(super) fn first(&self) -> impl Iterator<Item = &(Duration, Said)> {
        let is_first = |said: &Said| matches!(said.kind, Kind::Answer | Kind::Failure);
        self.lines.iter().filter(move |line| is_first(&line.1))
    }

    /// Milliseconds from taking up an image to its first answer.
    fn times(&self) -> Vec<f64> {
        self.first().map(|(_, said)| said.total_ms).collect()
    }

    /// Whether each accepted image has a final answer.
    pub(super) fn has_all_finals(&self) -> bool {
        let lines = self.lines.iter().map(|line| &line.1);
        let finals = lines.chain(&self.replies).filter(|said| said.is_final);
        let finals: HashSet<&str> = finals.map(|said| said.image.as_str()).collect();
        let mut accepted = self.accepted.iter();
        accepted.all(|image| finals.contains(image.as_str()))
    }

    /// Whether each promise holds, with images that have a deadline of `deadline_ms`.
    pub(super) fn verdicts(&self, deadline_ms: u64) -> Vec<Verdict> {
        let mut verdicts = vec![
            self.one_final_each(),
            self.answered(),
            self.in_time(deadline_ms),
        ];
        verdicts.extend(self.callers_in_time(deadline_ms));
        verdicts.extend(flat("device", &self.device));
        verdicts.extend(flat("cloud", &self.cloud));
        verdicts
    }

    fn one_final_each(&self) -> Verdict {
        let mut finals: BTreeMap<&str, Vec<&Said>> = BTreeMap::new();
        for image in &self.accepted {
            finals.entry(image).or_default();
        }
        for (_, said) in &self.lines {
            let of_image = finals.entry(&said.image).or_default();
            if said.is_final {
                of_image.push(said);
            }
        }
        for said in self.replies.iter().filter(|said| said.is_final) {
            let of_image = finals.entry(&said.image).or_default();
            // The line of the same event, unless the device died before it wrote it.
            if !of_image.iter().any(|other| other.kind == said.kind) {
                of_image.push(said);
            }
        }
        let faults: Vec<String> = finals
            .iter()
            .filter(|(_, finals)| finals.len() != 1)
            .map(|(image, finals)| format!("{image} has {}", finals.len()))
            .collect();
        Verdict {
            promise: "each accepted image has exactly one final answer".to_owned(),
            found: match &faults[..] {
                [] => format!("{} images, one each", finals.len()),
                [first, ..] => format!("not {} of {}: {first}", faults.len(), finals.len()),
            },
            holds: faults.is_empty() && !finals.is_empty(),
        }
    }

    fn answered(&self) -> Verdict {
        let failures = self
            .lines
            .iter()
            .filter(|line| line.1.kind == Kind::Failure)
            .count();
        Verdict {
            promise: "no image fails".to_owned(),
            found: format!("{failures} failures"),
            holds: failures == 0,
        }
    }

    fn in_time(&self, deadline_ms: u64) -> Verdict {
        let promise = format!("answered within {deadline_ms} + {LATE_MS:.0} ms");
        within(promise, self.times(), deadline_ms)
    }

    /// The same by the callers' clocks, with what comes before an image is taken up and after it is answered; none where
    /// nobody called.
    fn callers_in_time(&self, deadline_ms: u64) -> Option<Verdict> {
        let promise = format!("callers have their reply within {deadline_ms} + {LATE_MS:.0} ms");
        (!self.waits.is_empty()).then(|| within(promise, self.waits.clone(), deadline_ms))
    }
}

/// Whether all that took so many milliseconds was in time.
fn within(promise: String, mut times: Vec<f64>, deadline_ms: u64) -> Verdict {
    let bound = deadline_ms as f64 + LATE_MS;
    let late = times.iter().filter(|&&ms| ms > bound).count();
    let mut percentile = |percent| nearest_rank(&mut times, percent);
    let (median, p99, most) = (percentile(50), percentile(99), percentile(100));
    let show = |value: Option<f64>| value.map_or("–".to_owned(), |ms| format!("{ms:.0} ms"));
    Verdict {
        promise,
        found: format!(
            "median {}, p99 {}, most {}; {late} later",
            show(median),
            show(p99),
            show(most),
        ),
        holds: late == 0 && most.is_some(),
    }
}

/// Whether memory is flat in the longest life, where that is long enough and the system tells it.
fn flat(who: &str, lives: &[Vec<Memory>]) -> Option<Verdict> {
    let life = lives.iter().max_by_key(|life| life.len())?;
    let length = life.last()?.0 - life.first()?.0;
    if length < LIFE {
        return None;
    }
    let most = |half: &[Memory]| half.iter().map(|sample| sample.1).reduce(f64::max);
    let (first, second) = life.split_at(life.len() / 2);
    let (first, second) = (most(first)?, most(second)?);
    let minutes = length.as_secs_f64() / 60.0;
    Some(Verdict {
        promise: format!("the {who}'s memory is flat"),
        found: format!(
            "at most {first:.1} MB, later {second:.1} MB in its longest life, {minutes:.1} minutes"
        ),
        holds: second - first <= GROWTH_MB.max(GROWTH * first),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(image: &str, kind: Kind, is_final: bool, total_ms: f64) -> Said {
        Said {
            image: image.to_owned(),
            kind,
            is_final,
            site: "device".to_owned(),
            reason: "confident".to_owned(),
            total_ms,
        }
    }

    fn seen(lines: &[Said]) -> Seen {
        let at = |said: &Said| (Duration::ZERO, said.clone());
        Seen {
            accepted: ["a", "b"].map(str::to_owned).to_vec(),
            lines: lines.iter().map(at).collect(),
            ..Seen::default()
        }
    }

    fn holds(seen: &Seen) -> [bool; 3] {
        let verdicts = seen.verdicts(100);
        [0, 1, 2].map(|i| verdicts[i].holds)
    }

    #[test]
    fn one_final_answer_each_in_time_is_what_is_promised() {
        let good = [
            said("a", Kind::Answer, true, 100.0),
            said("b", Kind::Answer, false, 119.0),
            said("b", Kind::Correction, true, 9000.0),
        ];
        assert_eq!(holds(&seen(&good)), [true; 3]);
    }

    #[test]
    fn an_image_without_a_final_answer_or_with_two_is_a_fault() {
        let a = said("a", Kind::Answer, true, 1.0);
        assert!(!holds(&seen(std::slice::from_ref(&a)))[0]);
        let b = said("b", Kind::Answer, true, 1.0);
        assert!(holds(&seen(&[a.clone(), b.clone()]))[0]);
        assert!(!holds(&seen(&[a.clone(), a, b]))[0]);
        assert!(!holds(&seen(&[]))[0]);
    }

    #[test]
    fn a_reply_counts_where_the_device_died_before_its_line_and_not_beside_it() {
        let a = said("a", Kind::Answer, true, 1.0);
        let b = said("b", Kind::Answer, true, 1.0);
        let mut died = seen(std::slice::from_ref(&a));
        died.replies = vec![a, b.clone()];
        assert!(holds(&died)[0]);
        // What was final by its reply may not be corrected.
        let correction = said("b", Kind::Correction, true, 1.0);
        died.lines.push((Duration::ZERO, correction));
        assert!(!holds(&died)[0]);
    }

    #[test]
    fn failures_and_late_answers_are_faults() {
        let lines = [
            said("a", Kind::Failure, true, 1.0),
            said("b", Kind::Answer, true, 121.0),
        ];
        assert_eq!(holds(&seen(&lines)), [true, false, false]);
    }

    #[test]
    fn what_callers_waited_counts_by_their_own_clocks() {
        let mut seen = seen(&[said("a", Kind::Answer, true, 1.0)]);
        assert_eq!(seen.callers_in_time(100), None);
        seen.waits = vec![3.0, 119.0];
        assert!(seen.callers_in_time(100).unwrap().holds);
        seen.waits.push(121.0);
        let verdict = seen.callers_in_time(100).unwrap();
        assert!(!verdict.holds);
        assert!(
            verdict.found.ends_with("most 121 ms; 1 later"),
            "{}",
            verdict.found
        );
    }

    #[test]
    fn memory_that_grows_is_seen() {
        let life = |mb_per_sample: f64, seconds: u32| {
            let sample = |i: u32| {
                (
                    Duration::from_secs(i.into()),
                    40.0 + mb_per_sample * f64::from(i),
                )
            };
            vec![(0..seconds).map(sample).collect::<Vec<_>>()]
        };
        assert!(flat("device", &life(0.01, 200)).is_some_and(|verdict| verdict.holds));
        assert!(flat("device", &life(0.2, 200)).is_some_and(|verdict| !verdict.holds));
        assert_eq!(flat("device", &life(0.2, 100)), None);
        assert_eq!(flat("device", &[]), None);
    }
}
