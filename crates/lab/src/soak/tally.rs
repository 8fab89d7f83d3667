//! What became of the images of a soak, and whether that is what was promised.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use serde::Deserialize;

use super::calls::{self, Death, Unanswered};
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
    /// Calls that had no answer.
    pub(super) unanswered: Vec<Unanswered>,
    /// When the device was dead. It is asked to end only once all callers have gone.
    pub(super) deaths: Vec<Death>,
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
    pub(super) outcome: Outcome,
}

/// What came of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Holds,
    Broken,
    /// What was found says why.
    NotJudged,
}

impl Outcome {
    pub(super) const fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Broken }
    }
}

/// How many promises do not hold.
pub(super) fn broken(verdicts: &[Verdict]) -> usize {
    let is_broken = |verdict: &&Verdict| verdict.outcome == Outcome::Broken;
    verdicts.iter().filter(is_broken).count()
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
        vec![
            self.one_final_each(),
            self.no_failures(),
            calls::answered(self.replies.len(), &self.unanswered, &self.deaths),
            self.in_time(deadline_ms),
            self.callers_in_time(deadline_ms),
            flat("device", &self.device),
            flat("cloud", &self.cloud),
        ]
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
            outcome: Outcome::of(faults.is_empty() && !finals.is_empty()),
        }
    }

    fn no_failures(&self) -> Verdict {
        let failures = self
            .lines
            .iter()
            .filter(|line| line.1.kind == Kind::Failure)
            .count();
        Verdict {
            promise: "no image fails".to_owned(),
            found: format!("{failures} failures"),
            outcome: Outcome::of(failures == 0),
        }
    }

    fn in_time(&self, deadline_ms: u64) -> Verdict {
        let promise = format!("answered within {deadline_ms} + {LATE_MS:.0} ms");
        within(promise, self.times(), deadline_ms)
    }

    /// The same by the callers' clocks, with what comes before an image is taken up and after it is answered.
    fn callers_in_time(&self, deadline_ms: u64) -> Verdict {
        let promise = format!("callers have their reply within {deadline_ms} + {LATE_MS:.0} ms");
        within(promise, self.waits.clone(), deadline_ms)
    }
}

/// Whether all that took so many milliseconds was in time; not where there was none.
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
        outcome: Outcome::of(late == 0 && most.is_some()),
    }
}

/// Whether memory is flat in the longest life; not judged where that is too short or the system does not tell.
fn flat(who: &str, lives: &[Vec<Memory>]) -> Verdict {
    let minutes = |time: Duration| time.as_secs_f64() / 60.0;
    let length = |life: &[Memory]| match life {
        [first, .., last] => last.0 - first.0,
        _ => Duration::ZERO,
    };
    let lives = lives.iter().filter(|life| !life.is_empty());
    let (found, outcome) = match lives.max_by_key(|life| length(life)) {
        None => ("the system does not tell".to_owned(), Outcome::NotJudged),
        Some(life) if length(life) < LIFE => (
            format!(
                "too short to tell: its longest life had {:.1} minutes, and {:.0} are needed",
                minutes(length(life)),
                minutes(LIFE)
            ),
            Outcome::NotJudged,
        ),
        Some(life) => {
            let most = |half: &[Memory]| half.iter().map(|sample| sample.1).fold(0.0, f64::max);
            let (first, second) = life.split_at(life.len() / 2);
            let (first, second) = (most(first), most(second));
            (
                format!(
                    "at most {first:.1} MB, later {second:.1} MB in its longest life, {:.1} minutes",
                    minutes(length(life))
                ),
                Outcome::of(second - first <= GROWTH_MB.max(GROWTH * first)),
            )
        }
    };
    Verdict {
        promise: format!("the {who}'s memory is flat"),
        found,
        outcome,
    }
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

    /// Whether there is one final answer each, without failures and in time.
    fn holds(seen: &Seen) -> [bool; 3] {
        let verdicts = [seen.one_final_each(), seen.no_failures(), seen.in_time(100)];
        verdicts.map(|verdict| verdict.outcome == Outcome::Holds)
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
        assert_eq!(seen.callers_in_time(100).outcome, Outcome::Broken);
        seen.waits = vec![3.0, 119.0];
        assert_eq!(seen.callers_in_time(100).outcome, Outcome::Holds);
        seen.waits.push(121.0);
        let verdict = seen.callers_in_time(100);
        assert_eq!(verdict.outcome, Outcome::Broken);
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
        let outcome = |lives: &[Vec<Memory>]| flat("device", lives).outcome;
        assert_eq!(outcome(&life(0.01, 200)), Outcome::Holds);
        assert_eq!(outcome(&life(0.2, 200)), Outcome::Broken);
    }

    #[test]
    fn memory_that_is_not_judged_says_so() {
        let life = |seconds| vec![(Duration::ZERO, 40.0), (Duration::from_secs(seconds), 90.0)];
        let short = flat("device", &[life(42), life(30), vec![]]);
        assert_eq!(short.outcome, Outcome::NotJudged);
        assert_eq!(
            short.found,
            "too short to tell: its longest life had 0.7 minutes, and 2 are needed"
        );
        for untold in [&[][..], &[vec![]]] {
            let untold = flat("device", untold);
            assert_eq!(untold.outcome, Outcome::NotJudged);
            assert_eq!(untold.found, "the system does not tell");
        }
    }

    #[test]
    fn a_device_that_answers_each_call_with_500_is_at_fault() {
        let mut seen = seen(&[
            said("a", Kind::Answer, true, 1.0),
            said("b", Kind::Answer, true, 1.0),
        ]);
        seen.unanswered = vec![Unanswered {
            called: Duration::from_secs(1),
            ended: Duration::from_secs(1),
            why: calls::Why::Status(500, "see the program's log".to_owned()),
        }];
        assert_eq!(holds(&seen), [true; 3]);
        let verdicts = seen.verdicts(100);
        assert_eq!(broken(&verdicts), 2, "{verdicts:?}");
        seen.unanswered.clear();
        seen.replies = vec![said("a", Kind::Answer, true, 1.0)];
        seen.waits = vec![1.0];
        assert_eq!(broken(&seen.verdicts(100)), 0);
    }
}
