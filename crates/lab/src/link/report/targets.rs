//! What was aimed at, and whether it was met.

use std::collections::BTreeMap;

use super::{
    super::profile::{Always, Event},
    events::{LATE_MS, Move, Outage, RESUMES_MS, was_run},
    experiment::Experiment,
    speed::{POINTS, Parts, Speed, Verdict},
    spent::{Counted, OFF},
};

/// A target and what was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// The section that shows it.
    pub(super) anchor: &'static str,
    pub(super) wanted: String,
    pub(super) verdict: Verdict,
    pub(super) found: String,
    /// Where it is not met, or not decided, and why.
    pub(super) why: Vec<String>,
}

impl Target {
    fn not_run(anchor: &'static str, wanted: String, what: &str) -> Self {
        Self {
            anchor,
            wanted,
            verdict: Verdict::NotRun,
            found: what.to_owned(),
            why: vec![],
        }
    }
}

/// Learned policies are never slower than what they replace, and on bad links much faster.
pub(super) fn speed(experiment: &Experiment, speeds: &[Speed]) -> Target {
    let wanted = format!(
        "At the cloud's accuracy less {POINTS} point, a learned policy answers no later on the mean than the better of the device \
         alone, where that is as accurate, and the cloud alone; at least 1.5 times sooner on 4G and worse"
    );
    if speeds.is_empty() {
        let what = "no learned policy was run beside cloud-only";
        return Target::not_run("speed", wanted, what);
    }
    let count = |verdict| speeds.iter().filter(|s| s.verdict == verdict).count();
    let (holds, open, fails) = (
        count(Verdict::Holds),
        count(Verdict::Open),
        count(Verdict::Fails),
    );
    let mut found = format!("holds in {holds} of {} settings", speeds.len());
    if open > 0 {
        found += &format!(", {open} are not decided");
    }
    if fails > 0 {
        found += &format!(", {fails} fail");
    }
    let missed = speeds
        .iter()
        .filter(|speed| speed.verdict != Verdict::Holds);
    let why = missed.map(|speed| {
        let words = experiment.words(&speed.setting);
        let (cascade, transport) = (&speed.setting.cascade, speed.setting.transport);
        format!("{cascade}, {words}, {transport}: {}", why(speed))
    });
    Target {
        anchor: "speed",
        wanted,
        verdict: Verdict::all(speeds.iter().map(|speed| speed.verdict)),
        found,
        why: why.collect(),
    }
}

/// Why a learned policy is not as accurate or as fast as it should be, in figures.
pub(super) fn why(speed: &Speed) -> String {
    let mut reasons = Vec::new();
    if !speed.is_as_accurate {
        let points = &speed.points;
        let mut text = format!(
            "no learned policy is within {POINTS} point of the cloud: {} is at {:+.1} ({:+.1} to {:+.1})",
            speed.policy, points.value, points.low, points.high
        );
        if speed.here.high < -POINTS {
            let here = &speed.here;
            text += &format!(
                ", here at {:+.1} ({:+.1} to {:+.1})",
                here.value, here.low, here.high
            );
        }
        if speed.parts.fallbacks > 0.0 {
            let share = percent(speed.parts.fallbacks);
            text += &format!(", {share} of its images fell back");
        }
        if points.high.min(speed.here.high) >= -POINTS {
            text += &format!("; of {} images that may be chance", points.images);
        }
        reasons.push(text);
    }
    if let Some(rival) = &speed.rival
        && Verdict::at_least(&rival.faster, speed.needed) != Verdict::Holds
    {
        let faster = &rival.faster;
        let mut text = format!(
            "{:.2} times as fast as {} ({:.2} to {:.2}), needed {:.1}: {} takes {}, {} {}",
            faster.value,
            rival.policy,
            faster.low,
            faster.high,
            speed.needed,
            speed.policy,
            parts(&speed.parts),
            rival.policy,
            parts(&rival.parts),
        );
        if faster.is_of_few() {
            text += &format!("; only {} images", faster.images);
        }
        reasons.push(text);
    }
    if speed.rival.is_none() {
        let text = format!(
            "too few images in common to tell: {} takes {}",
            speed.policy,
            parts(&speed.parts)
        );
        reasons.push(text);
    }
    reasons.join("; ")
}

fn parts(parts: &Parts) -> String {
    let mut text = format!(
        "{:.0} ms an image ({:.0} on the device, {:.0} on the link and in the cloud; {} sent",
        parts.latency,
        parts.device,
        parts.elsewhere,
        percent(parts.sent)
    );
    if parts.fallbacks > 0.0 {
        text += &format!(", {} fell back", percent(parts.fallbacks));
    }
    text + ")"
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Without a path every image is answered in time.
pub(super) fn answered(experiment: &Experiment, outages: &[Outage<'_>]) -> Target {
    let wanted = format!(
        "While the path is down every image is answered by its deadline (a caller sees it at most {LATE_MS} ms later)"
    );
    let images: usize = outages.iter().map(|outage| outage.images).sum();
    if images == 0 {
        return Target::not_run("outage", wanted, not_run(experiment, Event::Down(Always)));
    }
    let late: usize = outages.iter().map(|outage| outage.late).sum();
    let slowest = outages.iter().map(|o| o.slowest).fold(0.0, f64::max);
    let missed = outages.iter().filter(|outage| outage.late > 0);
    let why = missed.map(|outage| {
        format!(
            "{}: {} of {} late or without an answer, the slowest after {:.0} ms of {:.0}",
            outage.run.record.run.id, outage.late, outage.images, outage.slowest, outage.deadline
        )
    });
    Target {
        anchor: "outage",
        wanted,
        verdict: Verdict::all(outages.iter().map(Outage::answered)),
        found: format!(
            "{} of {images} images of {} outages in time, the slowest after {slowest:.0} ms",
            images - late,
            outages.len()
        ),
        why: why.collect(),
    }
}

/// The cloud is asked again soon after an outage.
pub(super) fn resumes(experiment: &Experiment, outages: &[Outage<'_>]) -> Target {
    let wanted = format!(
        "The cloud answers again within {:.0} s of the path's being up again",
        RESUMES_MS / 1e3
    );
    let told = || {
        let told = outages.iter();
        told.filter(|outage| outage.resumes() != Verdict::NotRun)
    };
    if told().next().is_none() {
        return Target::not_run("outage", wanted, not_run(experiment, Event::Up(Always)));
    }
    let mut by_transport: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for outage in told() {
        let transport = outage.run.record.run.transport.as_str();
        let after = outage.resumed.unwrap_or(f64::INFINITY);
        by_transport.entry(transport).or_default().push(after);
    }
    let found = by_transport.into_iter().map(|(transport, after)| {
        let most = after.iter().copied().fold(0.0, f64::max);
        let words = match most.is_finite() {
            true => format!("after {most:.0} ms at the most"),
            false => "in one run not at all".to_owned(),
        };
        format!("{transport}, {} times: {words}", after.len())
    });
    let missed = told().filter(|outage| outage.resumes() == Verdict::Fails);
    let why = missed.map(|outage| {
        let after = outage.resumed.map_or("not at all".to_owned(), |after| {
            format!("after {after:.0} ms")
        });
        let id = &outage.run.record.run.id;
        format!("{id}: {after}; {} images asked in vain", outage.in_vain)
    });
    Target {
        anchor: "outage",
        wanted,
        verdict: Verdict::all(told().map(Outage::resumes)),
        found: found.collect::<Vec<_>>().join("; "),
        why: why.collect(),
    }
}

/// A change of the device's address costs HTTP/3 nothing but a moment.
pub(super) fn moves(experiment: &Experiment, moves: &[Move<'_>]) -> Target {
    let wanted = "Where the device gets another address HTTP/3 loses no call, and none stalls longer than two round trips and \
                  100 ms"
        .to_owned();
    let of = |transport: &'static str| {
        let told = moves.iter().filter(|moved| moved.calls > 0);
        told.filter(move |moved| moved.run.record.run.transport.as_str() == transport)
    };
    if of("h3").next().is_none() {
        let what = not_run(experiment, Event::NewAddress(Always));
        return Target::not_run("address", wanted, what);
    }
    let words = |transport: &'static str| {
        let lost: usize = of(transport).map(|moved| moved.lost).sum();
        let calls: usize = of(transport).map(|moved| moved.calls).sum();
        let stalled = of(transport).map(|moved| moved.stalled).fold(0.0, f64::max);
        (calls > 0).then(|| {
            format!("{transport}: {lost} of {calls} calls lost, the longest stall {stalled:.0} ms")
        })
    };
    let found: Vec<String> = ["h3", "h2"].into_iter().filter_map(words).collect();
    let missed = of("h3").filter(|moved| moved.verdict() != Verdict::Holds);
    let why = missed.map(|moved| {
        format!(
            "{}: {} lost, stalled {:.0} ms of {:.0}; elsewhere in the run calls take up to {:.0} ms beyond what is usual",
            moved.run.record.run.id, moved.lost, moved.stalled, moved.bound, moved.usual
        )
    });
    Target {
        anchor: "address",
        wanted,
        verdict: Verdict::all(of("h3").map(Move::verdict)),
        found: found.join("; "),
        why: why.collect(),
    }
}

/// The device counts the bytes that the path counts.
pub(super) fn counts(counts: &[Counted<'_>]) -> Target {
    let wanted = format!(
        "The device's count of bytes is within {} of the path's, in each direction",
        percent(OFF)
    );
    if counts.is_empty() {
        let what = "no run sent anything, or the device program did not count";
        return Target::not_run("counts", wanted, what);
    }
    let off: Vec<&Counted<'_>> = counts
        .iter()
        .filter(|counted| counted.off.abs() > OFF)
        .collect();
    let most = counts.iter().map(|c| c.off.abs()).fold(0.0, f64::max);
    let why = off.iter().map(|counted| {
        format!(
            "{}: {:+.1} %",
            counted.run.record.run.id,
            100.0 * counted.off
        )
    });
    Target {
        anchor: "counts",
        wanted,
        verdict: match off.is_empty() {
            true => Verdict::Holds,
            false => Verdict::Fails,
        },
        found: format!(
            "{} of {} runs, the farthest {:.1} % off",
            counts.len() - off.len(),
            counts.len(),
            100.0 * most
        ),
        why: why.collect(),
    }
}

fn not_run(experiment: &Experiment, event: Event) -> &'static str {
    match was_run(experiment, event) {
        true => "no run that sends images saw it happen",
        false => "no profile on which it happens was run",
    }
}
