//! The page of an experiment: what was found first, then a section a question.

use maud::{Markup, PreEscaped, html};

use super::{
    super::rows::Record,
    Findings, changing,
    experiment::{Experiment, Setting, badness},
    figures::{Drawn, Estimate, FEW, rows},
    sections,
    speed::Verdict,
    targets::Target,
};
use crate::report::{Plot, document};

/// The command that makes the experiment again.
const AGAIN: &str = "lab link --from rows.parquet --out again";

/// The page. `fleet` is the main part of the page of `lab fleet`, where there is one.
pub(super) fn page(found: &Findings, fleet: Option<&str>) -> Markup {
    let experiment = &found.experiment;
    let told = found.targets.iter();
    let told: Vec<&Target> = told.filter(|t| t.verdict != Verdict::NotRun).collect();
    let holds = told.iter().filter(|t| t.verdict == Verdict::Holds).count();
    let title = match told.len() {
        0 => "No target was put to the test".to_owned(),
        all if holds == all => format!("All {all} targets that were put to the test are met"),
        all => format!("{holds} of {all} targets are met"),
    };
    let body = html! {
        header {
            p.over { "Outpost over real links, emulated" }
            h1 { (title) }
            p { (setting(experiment)) }
            (navigation(fleet.is_some()))
        }
        main {
            (targets(&found.targets))
            (sections::speed(found))
            (sections::latency(found))
            (sections::frontiers(found))
            (sections::offloading(found))
            (sections::transports(found))
            (changing::outages(found))
            (changing::moves(found))
            (changing::following(found))
            (sections::bytes(found))
            (sections::spent(found))
            @if let Some(fleet) = fleet { div id="fleet" { (PreEscaped(fleet)) } }
            (how(experiment))
        }
        footer { p { (intervals(found)) } }
    };
    document("Outpost: links", &body)
}

fn setting(experiment: &Experiment) -> String {
    let images: usize = experiment.runs.iter().map(|run| run.rows.len()).sum();
    let mut text = format!(
        "{images} images of {} runs: the real programs at the two ends of a path that is made to be like {} links, with {}",
        experiment.runs.len(),
        experiment.order.len(),
        listed(&experiment.cascades())
    );
    if let Some(machine) = &experiment.origin.machine {
        text += &format!(", on {machine} ({} cores)", experiment.origin.cores);
    }
    text + "."
}

/// Words with commas and an "and".
pub(super) fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn navigation(has_fleet: bool) -> Markup {
    let mut sections = vec![
        ("speed", "Against device and cloud"),
        ("latency", "Latencies"),
        ("frontier", "Accuracy and time"),
        ("offloading", "From link to link"),
        ("transports", "HTTP/2 and HTTP/3"),
        ("outage", "An outage"),
        ("address", "Another address"),
        ("following", "Following the link"),
        ("bytes", "Bytes"),
        ("device", "The device"),
        ("how", "How it was made"),
    ];
    if has_fleet {
        sections.insert(10, ("fleet", "Many devices"));
    }
    html! { nav { @for (anchor, words) in sections { a href=(format!("#{anchor}")) { (words) } } } }
}

/// A verdict as a sign and a word.
pub(super) fn verdict(verdict: Verdict) -> Markup {
    let (class, words) = match verdict {
        Verdict::Holds => ("holds", "✓ met"),
        Verdict::Open => ("open", "≈ not decided"),
        Verdict::Fails => ("fails", "✗ not met"),
        Verdict::NotRun => ("not-run", "– not run"),
    };
    html! { span class=(format!("verdict {class}")) { (words) } }
}

fn targets(targets: &[Target]) -> Markup {
    html! {
        section id="found" {
            h2 { "What was found" }
            @for target in targets {
                div.target {
                    (verdict(target.verdict))
                    div {
                        p { b { (target.wanted) "." } }
                        p { (target.found) ". " a href=(format!("#{}", target.anchor)) { "More" } }
                        (reasons(&target.why))
                    }
                }
            }
            p.paper { "Not decided: the 95 % interval has both in it, so that more images are needed to say." }
        }
    }
}

fn reasons(why: &[String]) -> Markup {
    html! {
        @if !why.is_empty() {
            details open[why.len() <= 3] {
                summary { "Why not (" (why.len()) ")" }
                ul { @for line in why { li { (line) } } }
            }
        }
    }
}

/// An interval in small print, with a mark where it is of few images.
pub(super) fn interval(found: &Estimate, digits: usize) -> Markup {
    html! {
        small {
            (format!("{:.digits$} to {:.digits$}", found.low, found.high))
            @if found.is_of_few() { " †" }
        }
    }
}

/// Where figures come from: what is selected of the rows, how many those are, and the command that makes them again.
pub(super) fn source(selected: &str, images: usize, runs: usize, only: Option<&Record>) -> Markup {
    let again = match only {
        Some(record) => format!("{AGAIN} --only {}", record.run.id),
        None => AGAIN.to_owned(),
    };
    html! {
        details.source {
            summary {
                (images) @if images == 1 { " image" } @else { " images" }
                " of " (runs) @if runs == 1 { " run" } @else { " runs" }
                @if images < FEW { " †" }
            }
            p { "Rows of " code { "rows.parquet" } ": " code { (selected) } }
            p { "Again: " code { (again) } }
        }
    }
}

/// What selects the rows of a setting.
pub(super) fn selected(setting: &Setting) -> String {
    format!(
        "profile = '{}' AND cascade = '{}' AND (transport = '{}' AND payload = '{}' OR policy = 'device-only') AND arrivals = '{}' \
         AND concurrency = {}",
        setting.profile,
        setting.cascade,
        setting.transport,
        setting.payload,
        setting.arrivals,
        setting.concurrency
    )
}

/// The source of a plot of all policies of a setting.
pub(super) fn source_of(experiment: &Experiment, setting: &Setting, but_fixed: bool) -> Markup {
    use super::super::plan::Policy;
    let policies = experiment.policies(setting).into_iter();
    let shown = policies.filter(|policy| !(but_fixed && matches!(policy, Policy::Fixed(_))));
    let runs: Vec<_> = shown
        .flat_map(|policy| experiment.of(setting, &policy))
        .collect();
    let mut words = selected(setting);
    if but_fixed {
        words += " AND policy NOT LIKE 'fixed:%'";
    }
    source(&words, rows(&runs).count(), runs.len(), None)
}

/// A plot of several beside each other, without a legend of its own.
pub(super) fn small(title: &str, plot: &Plot, source: &Markup) -> Markup {
    html! {
        figure {
            h3 { (title) }
            (PreEscaped(plot.svg()))
            figcaption { (source) }
        }
    }
}

fn intervals(found: &Findings) -> String {
    let several = found.experiment.plan.repeats > 1;
    let drawn = match several {
        true => {
            "repeats are drawn, and then images of each, so that what differs between repeats counts"
        }
        false => "images are drawn",
    };
    let is_of_images = |speed: &super::speed::Speed| speed.points.drawn == Drawn::Images;
    let but = match several && found.speeds.iter().any(is_of_images) {
        true => "; where only one repeat is there yet, its images",
        false => "",
    };
    format!(
        "Latencies are those that callers see. Policies are compared on the same images of the same repeat. Intervals are 95 %, by \
         bootstrap: {drawn}{but}. † marks figures of fewer than {FEW} images or pairs, which say little."
    )
}

fn how(experiment: &Experiment) -> Markup {
    let origin = &experiment.origin;
    let built = match &origin.commit {
        Some(commit) => format!("version {}, commit {commit}", origin.version),
        None => format!("version {}", origin.version),
    };
    html! {
        section id="how" {
            h2 { "How it was made" }
            p { "Programs of " (built) "; the path was made by " (origin.emulator) ". " code { "rows.parquet" } " has all images \
                and says by itself what it was made of: " code { (AGAIN) } " makes it again, " code { "lab link-report" }
                " this page." }
            @if !experiment.void.is_empty() {
                p { b { (experiment.void.len()) } " runs are void and left out, because their path was not as its profile says:" }
                ul { @for record in &experiment.void { li {
                    code { (record.run.id) } (format!(": {:.1} ms", record.path.round_trip_ms)) (rates(record))
                } } }
            }
            @else { p { "No run is void: every path was as its profile says." } }
            (paths(experiment))
            details { summary { "The plan" } pre { (origin.plan) } }
            @if let Some(profiles) = &origin.profiles { details { summary { "Profiles given with it" } pre { (profiles) } } }
        }
    }
}

fn rates(record: &Record) -> String {
    let of = |bps: Option<f64>, words: &str| {
        bps.map(|bps| format!(", {:.2} Mbit/s {words}", bps / 1e6))
            .unwrap_or_default()
    };
    of(record.path.uplink_bps, "up") + &of(record.path.downlink_bps, "down")
}

fn paths(experiment: &Experiment) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th { "profile" } th { "" } th { "is" } th { "changes" } th { "runs" } th { "found: round trip" } th { "uplink" }
                th { "an image takes at the least" }
            } }
            tbody { @for name in &experiment.order {
                @let profile = &experiment.profiles[name];
                @let of: Vec<&Record> = experiment.runs.iter().map(|run| &run.record)
                    .filter(|record| record.run.profile == *name).collect();
                @let trips = range(of.iter().map(|record| record.path.round_trip_ms));
                @let ups = range(of.iter().filter_map(|record| record.path.uplink_bps).map(|bps| bps / 1e6));
                tr {
                    th { (name) }
                    td.words { (profile.description) }
                    td.words { (profile.condition) }
                    td { (profile.changes.len()) }
                    td { (of.len()) }
                    td { (trips.map_or("–".to_owned(), |(low, high)| format!("{low:.1} to {high:.1} ms"))) }
                    td { (ups.map_or("–".to_owned(), |(low, high)| format!("{low:.2} to {high:.2} Mbit/s"))) }
                    td { (format!("{:.0} ms", badness(&profile.condition, experiment.image_bytes))) }
                }
            } }
        } }
        p { "The last column is the round trip and the time that " (format!("{:.0} kB", experiment.image_bytes / 1e3))
            ", the mean of what was sent at once, take on the uplink. Links of as much as 4g-good count as “4G and worse”." }
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// A ratio and its interval on a line from 1/4 to 16, with a stroke where it should be.
pub(super) fn track(found: &Estimate, needed: f64, verdict: Verdict) -> Markup {
    let place = |ratio: f64| 100.0 * ((ratio.max(1e-9) / 0.25).log2() / 6.0).clamp(0.0, 1.0);
    let (low, high) = (place(found.low), place(found.high));
    let class = match verdict {
        Verdict::Holds => "holds",
        Verdict::Fails => "fails",
        _ => "open",
    };
    html! {
        div class=(format!("track {class}")) title=(format!("{:.2} ({:.2} to {:.2})", found.value, found.low, found.high)) {
            u style=(format!("left:{:.1}%", place(needed))) {}
            i style=(format!("left:{low:.1}%;width:{:.1}%", (high - low).max(0.5))) {}
            b style=(format!("left:{:.1}%", place(found.value))) {}
        }
    }
}
