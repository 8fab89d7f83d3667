//! The page of a soak: what was promised, what was found, and the course of it.

use std::{collections::BTreeMap, time::Duration};

use maud::{Markup, html};

use super::{
    Happening, Kind, Link, Planned, Said, Seen, SoakArgs,
    calls::{Explanation, Unanswered},
    tally::{self, Memory, Outcome, Verdict},
};
use crate::{
    host,
    report::{Mark, Plot, Series, WIDE, document, figure},
};

/// Whether something that was said is of a kind.
type IsKind = fn(&Said) -> bool;

/// Bars of the course of a soak.
const BINS: f64 = 120.0;
/// Calls without an answer that are listed.
const LISTED: usize = 20;

/// The page.
pub(super) fn page(
    args: &SoakArgs,
    seen: &Seen,
    happened: &[Planned],
    verdicts: &[Verdict],
) -> Markup {
    let is_unjudged = |verdict: &Verdict| verdict.outcome == Outcome::NotJudged;
    let title = match tally::broken(verdicts) {
        0 if verdicts.iter().any(is_unjudged) => "Every promise that was judged holds".to_owned(),
        0 => "Every promise holds".to_owned(),
        broken => format!("{broken} of {} promises do not hold", verdicts.len()),
    };
    let away = away(happened);
    let body = html! {
        header {
            h1 { (title) }
            p {
                "A device left running for " (args.minutes) " min beside a cloud that was killed "
                (count(happened, Happening::CloudDies)) " times, over a link that went " (away.len())
                " times, and itself killed " (count(happened, Happening::DeviceDies)) " times."
            }
            (cards(seen))
        }
        main {
            (promises(verdicts))
            @if !seen.unanswered.is_empty() { (unanswered(seen)) }
            section {
                h2 { "Who answered" }
                (figure(&answers(seen, &away), "Grey: no link. First answers a second; a correction is the cloud's answer \
                    about an image that waited on disk, or that came after the deadline."))
            }
            section {
                h2 { "Time to the answer" }
                (figure(&times(seen, args.deadline, &away), "From taking up an image to its first answer. Without a cloud \
                    the device's own answer comes at the deadline at the latest."))
            }
            section {
                h2 { "Memory" }
                (figure(&memory(seen, &away), "Resident; a line begins anew where a program was killed and started again."))
            }
            section { h2 { "What happened" } (course(happened)) }
        }
        footer {
            p {
                code { "lab soak --minutes " (args.minutes) " --rate " (args.rate) " --deadline " (args.deadline)
                    " --seed " (args.seed) " --cascade " (args.cascade.display()) }
                @if let Some(processor) = host::cpu_model() { ", on " (processor) }
            }
        }
    };
    document("Outpost: a soak", &body)
}

fn cards(seen: &Seen) -> Markup {
    let is_elsewhere = |line: &&(Duration, Said)| line.1.site != "device";
    let offloaded = seen.first().filter(is_elsewhere).count();
    let all = seen.first().count();
    let corrections = seen
        .lines
        .iter()
        .filter(|line| line.1.kind == Kind::Correction)
        .count();
    let unanswered = |wanted| {
        let is_wanted = |call: &&Unanswered| call.explanation(&seen.deaths) == wanted;
        seen.unanswered.iter().filter(is_wanted).count()
    };
    html! {
        div.cards {
            div.card { b { (seen.accepted.len()) } span { "images accepted" } }
            div.card { b { (offloaded) } span { "of " (all) " first answers were the cloud's" } }
            div.card { b { (corrections) } span { "answers of the cloud that came later" } }
            div.card { b { (seen.replies.len()) } span { "calls answered" } }
            div.card { b { (unanswered(Explanation::Backpressure)) } span { "calls told to come back (503)" } }
            div.card { b { (unanswered(Explanation::Death)) } span { "calls in vain as the device was dead" } }
            div.card { b { (unanswered(Explanation::Nothing)) } span { "calls in vain that nothing explains" } }
        }
    }
}

fn promises(verdicts: &[Verdict]) -> Markup {
    html! {
        section {
            h2 { "What was promised" }
            div.scroll {
                table {
                    @for verdict in verdicts {
                        tr {
                            th { (verdict.promise) }
                            td {
                                (match verdict.outcome {
                                    Outcome::Holds => "✓",
                                    Outcome::Broken => "✗",
                                    Outcome::NotJudged => "–",
                                })
                            }
                            td.words { (verdict.found) }
                        }
                    }
                }
            }
        }
    }
}

/// The first calls without an answer, those that nothing explains before all others.
fn unanswered(seen: &Seen) -> Markup {
    let explained = |call: &Unanswered| call.explanation(&seen.deaths);
    let mut calls: Vec<_> = seen.unanswered.iter().collect();
    calls.sort_by_key(|call| (explained(call) != Explanation::Nothing, call.called));
    html! {
        section {
            h2 { "Calls without an answer" }
            div.scroll {
                table {
                    @for call in calls.iter().take(LISTED) {
                        tr {
                            th { (format!("{:.1} s", call.called.as_secs_f64())) }
                            td.words { (call.why) }
                            td.words { (explained(call)) }
                        }
                    }
                }
            }
            @if calls.len() > LISTED { p { "And " (calls.len() - LISTED) " more." } }
        }
    }
}

fn course(happened: &[Planned]) -> Markup {
    html! {
        div.scroll {
            table {
                @for (at, happening) in happened {
                    tr {
                        th { (happening) }
                        td { (format!("{:.1} min", minutes(*at))) }
                    }
                }
            }
        }
    }
}

fn minutes(at: Duration) -> f64 {
    at.as_secs_f64() / 60.0
}

fn count(happened: &[Planned], wanted: Happening) -> usize {
    happened
        .iter()
        .filter(|planned| planned.1 == wanted)
        .count()
}

/// From when to when there was no link, in minutes.
fn away(happened: &[Planned]) -> Vec<(f64, f64)> {
    let mut since = None;
    let mut away = Vec::new();
    for (at, happening) in happened {
        match happening {
            Happening::Link(Link::Up) => {
                away.extend(since.take().map(|since| (since, minutes(*at))));
            }
            Happening::Link(_) => since = Some(minutes(*at)),
            _ => {}
        }
    }
    away
}

fn answers(seen: &Seen, away: &[(f64, f64)]) -> Plot {
    let kinds: [(&str, IsKind); 4] = [
        ("the device, sure", |said| {
            said.kind == Kind::Answer
                && said.site == "device"
                && !said.reason.starts_with("fallback")
        }),
        ("the cloud", |said| {
            said.kind == Kind::Answer && said.site != "device"
        }),
        ("the device, without a cloud", |said| {
            said.kind == Kind::Answer && said.reason.starts_with("fallback")
        }),
        ("corrections", |said| said.kind == Kind::Correction),
    ];
    let end = seen.lines.last().map_or(1.0, |line| minutes(line.0));
    let bin = end / BINS;
    let series = kinds.iter().enumerate().map(|(colour, (name, is_kind))| {
        let mut bins: BTreeMap<u64, usize> = (0..BINS as u64).map(|bin| (bin, 0)).collect();
        for (at, said) in &seen.lines {
            if is_kind(said) {
                *bins.entry((minutes(*at) / bin) as u64).or_default() += 1;
            }
        }
        let point =
            |(n, count): (u64, usize)| ((n as f64 + 0.5) * bin, count as f64 / (60.0 * bin));
        Series {
            name: (*name).to_owned(),
            colour,
            mark: Mark::Line,
            points: bins
                .into_iter()
                .filter(|bin| bin.0 < BINS as u64)
                .map(point)
                .collect(),
        }
    });
    Plot {
        x: "minutes",
        y: "answers a second",
        series: series.collect(),
        spans: away.to_vec(),
        ..Plot::new(WIDE)
    }
}

fn times(seen: &Seen, deadline_ms: u64, away: &[(f64, f64)]) -> Plot {
    let dots = |name: &str, colour, is_of: IsKind| Series {
        name: name.to_owned(),
        colour,
        mark: Mark::SmallDots,
        points: seen
            .first()
            .filter(|line| is_of(&line.1))
            .map(|(at, said)| (minutes(*at), said.total_ms))
            .collect(),
    };
    let end = seen.lines.last().map_or(1.0, |line| minutes(line.0));
    let deadline = deadline_ms as f64;
    Plot {
        x: "minutes",
        y: "milliseconds",
        series: vec![
            dots("the device", 0, |said| said.site == "device"),
            dots("the cloud", 1, |said| said.site != "device"),
            Series {
                name: "the deadline".to_owned(),
                colour: 7,
                mark: Mark::Thin,
                points: vec![(0.0, deadline), (end, deadline)],
            },
        ],
        spans: away.to_vec(),
        ..Plot::new(WIDE)
    }
}

fn memory(seen: &Seen, away: &[(f64, f64)]) -> Plot {
    let lives = |name: &'static str, colour, lives: &[Vec<Memory>]| {
        let line = move |(n, life): (usize, &Vec<Memory>)| Series {
            name: if n == 0 {
                name.to_owned()
            } else {
                String::new()
            },
            colour,
            mark: Mark::Line,
            points: life
                .iter()
                .map(|&(at, megabytes)| (minutes(at), megabytes))
                .collect(),
        };
        lives.iter().enumerate().map(line).collect::<Vec<_>>()
    };
    let mut series = lives("the device", 0, &seen.device);
    series.extend(lives("the cloud", 1, &seen.cloud));
    Plot {
        x: "minutes",
        y: "MB",
        series,
        spans: away.to_vec(),
        ..Plot::new(WIDE)
    }
}
