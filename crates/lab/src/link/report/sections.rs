//! Sections about paths that stay as they are, and about what images use up.

use maud::{Markup, html};

use super::{
    super::plan::Policy,
    Findings,
    experiment::{Measured, Setting},
    figures::{Estimate, Times},
    page::{interval, selected, small, source, source_of, track, verdict},
    plots::{self, Along, Seen},
    speed::{Speed, Verdict},
    spent::{Bytes, OFF, Spent},
    targets::why,
    transports::{Cell, Matrix},
};
use crate::{
    report::{Plot, Series, legend},
    table::percent,
};

/// Learned policies against the device and the cloud alone.
pub(super) fn speed(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    html! {
        section id="speed" {
            h2 { "Learned policies against the device and the cloud alone" }
            @if found.speeds.is_empty() { p { "No learned policy was run beside cloud-only." } }
            @for cascade in experiment.cascades() {
                @let speeds: Vec<&Speed> = found.speeds.iter().filter(|speed| speed.setting.cascade == cascade).collect();
                @if !speeds.is_empty() {
                    h3 { (cascade) }
                    @if let Some((top1, images)) = found.reference.top1(cascade, &speeds[0].setting.payload) {
                        p { "The cloud alone is right about " b { (percent(top1)) } " of " (images) " images." }
                    }
                    div.scroll { table.wide {
                        thead { tr {
                            th { "link" } th { "learned policy" } th { "points" } th { "against" }
                            th { "times sooner" } th {} th {}
                        } }
                        tbody { @for speed in &speeds { (speed_line(found, speed)) } }
                    } }
                    @let missed: Vec<&&Speed> = speeds.iter().filter(|speed| speed.verdict != Verdict::Holds).collect();
                    @if !missed.is_empty() { details {
                        summary { "Why not, " (missed.len()) " times" }
                        ul { @for speed in missed {
                            li { b { (experiment.words(&speed.setting)) ", " (speed.setting.transport) } ": " (why(speed)) "." }
                        } }
                    } }
                }
            }
            p.quiet { "Points: what it is more accurate than the cloud on the same images, over all links that stay as they are and on \
                which none of its images fell back, as long as none fell back here; else here, where what an image that fell back was \
                answered counts as it is. Of the learned policies that lose no more than a point, and are not seen to lose more here, \
                the fastest is told of, else the most accurate; that goes by the figure itself, not by its interval. A mean is over \
                all images of the policy, times over those that both had. The line goes from a quarter to sixteen times; the stroke \
                is what is needed." }
            (source("profile, cascade, transport and payload of the line; policy IN (the two named, 'cloud-only')",
                found.experiment.runs.iter().map(|run| run.rows.len()).sum(), found.experiment.runs.len(), None))
        }
    }
}

fn speed_line(found: &Findings, speed: &Speed) -> Markup {
    html! { tr {
        th { (found.experiment.words(&speed.setting)) small { (speed.setting.transport) } }
        td { (milliseconds(speed.parts.latency)) small { (speed.policy) } }
        td { (format!("{:+.1}", speed.points.value)) (interval(&speed.points, 1))
            @if speed.here != speed.points { small { (format!("here {:+.1}", speed.here.value)) } } }
        @match &speed.rival {
            Some(rival) => {
                td { (milliseconds(rival.parts.latency)) small { (rival.policy) } }
                td { b { (format!("{:.2}", rival.faster.value)) } (interval(&rival.faster, 2)) }
                td.tracks { (track(&rival.faster, speed.needed, speed.verdict)) small { (format!("needed {:.1}", speed.needed)) } }
            }
            None => { td { "–" } td { "–" } td {} }
        }
        td { (verdict(speed.verdict)) @if !speed.is_as_accurate { small { "by its accuracy" } } }
    } }
}

/// A time that is read at a glance.
pub(super) fn milliseconds(ms: f64) -> String {
    match ms {
        ..100.0 => format!("{ms:.1} ms"),
        100.0..10_000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

/// Plots of several settings below one legend, in a grid of a class: `plots` or, larger, `pairs`.
fn several(class: &str, plots: Vec<(String, Plot, Markup)>) -> Markup {
    let mut named: Vec<Series> = Vec::new();
    for series in plots.iter().flat_map(|plot| &plot.1.series) {
        if !named.iter().any(|other| other.name == series.name) {
            named.push(series.clone());
        }
    }
    html! {
        (legend(&named))
        div class=(class) { @for (title, plot, source) in &plots { (small(title, plot, source)) } }
    }
}

/// Settings of a cascade by the transport that is plotted, on paths that stay as they are and then on those that change.
fn plotted<'a>(found: &'a Findings, cascade: &str) -> Vec<&'a Setting> {
    let experiment = &found.experiment;
    let mut settings = experiment.settings_of(cascade, false);
    settings.extend(experiment.settings_of(cascade, true));
    settings.retain(|setting| setting.transport == experiment.transport());
    settings
}

/// Distributions of latencies.
pub(super) fn latency(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    let transport = experiment.transport();
    html! {
        section id="latency" {
            h2 { "When answers come" }
            p { "Images answered within so much time, of a hundred; by " (transport) "." }
            @for cascade in experiment.cascades() {
                @let settings = plotted(found, cascade);
                @if !settings.is_empty() { h3 { (cascade) } }
                (several("plots", settings.iter().map(|setting| (
                    experiment.words(setting),
                    plots::distribution(experiment, setting),
                    source_of(experiment, setting, true),
                )).collect()))
                details {
                    summary { "Mean, median, 95th and 99th percentile" }
                    div.scroll { table {
                        thead { tr {
                            th { "link" } th { "policy" } th { "by" } th { "images" } th { "mean" } th { "median" } th { "p95" }
                            th { "p99" } th { "fell back" } th { "no answer" }
                        } }
                        tbody { @for setting in experiment.settings.iter().filter(|setting| setting.cascade == cascade) {
                            @for policy in experiment.policies(setting) { (times_line(found, setting, &policy)) }
                        } }
                    } }
                }
            }
            p.quiet { "A run ends after its time whatever it has measured: policies that are slow on a link have fewer images there. \
                Policies that keep to a point (fixed) are plotted where the link changes." }
        }
    }
}

fn times_line(found: &Findings, setting: &Setting, policy: &Policy) -> Markup {
    let runs = found.experiment.of(setting, policy);
    let all = || super::figures::rows(&runs);
    html! { @if let Some(times) = Times::of_runs(&runs) { tr {
        th { (found.experiment.words(setting)) }
        td { (policy) }
        td { (if *policy == Policy::DeviceOnly { "–" } else { setting.transport }) }
        td { (times.images) }
        td { (milliseconds(times.mean)) }
        td { (milliseconds(times.median)) }
        td { (milliseconds(times.p95)) }
        td { (milliseconds(times.p99)) }
        td { (all().filter(|row| row.is_fallback()).count()) }
        td { (all().filter(|row| row.class.is_none()).count()) }
    } } }
}

/// Accuracy by latency.
pub(super) fn frontiers(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    html! {
        section id="frontier" {
            h2 { "What time buys on each link" }
            @for cascade in experiment.cascades() {
                @let settings = plotted(found, cascade);
                @if !settings.is_empty() { h3 { (cascade) } }
                (several("plots", settings.iter().map(|setting| (
                    experiment.words(setting),
                    plots::frontier(experiment, &found.reference, setting),
                    source_of(experiment, setting, !experiment.changes(&setting.profile)),
                )).collect()))
            }
            p.quiet { "By " (experiment.transport()) ". A dot is a policy: its mean latency on this link, and the accuracy of what it \
                answered. That is the cloud's over all images of the experiment, and what the policy is better or worse on the same \
                images: over all links on which none of its images fell back, if none did here, else here. What the cloud says of an \
                image does not depend on the link, and is taken from all." }
        }
    }
}

/// What is sent and when answers come, over links of several rates or round trips.
pub(super) fn offloading(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    html! {
        section id="offloading" {
            h2 { "From link to link" }
            @for cascade in experiment.cascades() {
                @let settings: Vec<&Setting> = experiment.settings_of(cascade, false).into_iter()
                    .filter(|setting| setting.transport == experiment.transport()).collect();
                @if !settings.is_empty() {
                    h3 { (cascade) }
                    @match Along::of(experiment, &settings) {
                        Some(along) => (several("pairs", over_links(found, &settings, along))),
                        None => { p { "All links that were run have one rate and one round trip." } }
                    }
                }
            }
            p.quiet { "Links that stay as they are; those without a bound on the uplink have no place along it. Round trips and loss \
                may differ, too, from one link to the next." }
        }
    }
}

fn over_links(
    found: &Findings,
    settings: &[&Setting],
    along: Along,
) -> Vec<(String, Plot, Markup)> {
    let experiment = &found.experiment;
    // A plot for each way in which images came.
    let mut ways: Vec<(&Setting, Vec<&Setting>)> = Vec::new();
    let way = |s: &Setting| (s.payload.clone(), s.arrivals.clone(), s.concurrency);
    for &setting in settings {
        match ways
            .iter_mut()
            .find(|(first, _)| way(first) == way(setting))
        {
            Some((_, all)) => all.push(setting),
            None => ways.push((setting, vec![setting])),
        }
    }
    let several = ways.len() > 1;
    let mut plots = Vec::new();
    for (first, of) in &ways {
        let which = match several {
            true => format!(
                ", {}, {}, {} callers",
                first.payload, first.arrivals, first.concurrency
            ),
            false => String::new(),
        };
        for (seen, words) in [
            (Seen::Sent, "What is sent"),
            (Seen::Mean, "When answers come"),
        ] {
            let selected = format!(
                "cascade = '{}' AND (transport = '{}' OR policy = 'device-only') AND arrivals = '{}' AND concurrency = {} AND policy \
                 NOT LIKE 'fixed:%', on profiles without changes",
                first.cascade, first.transport, first.arrivals, first.concurrency
            );
            let runs = of_settings(found, of);
            let images = super::figures::rows(&runs).count();
            plots.push((
                format!("{words}{which}"),
                plots::over_links(experiment, of, along, seen),
                source(&selected, images, runs.len(), None),
            ));
        }
    }
    plots
}

fn of_settings<'a>(found: &'a Findings, settings: &[&Setting]) -> Vec<&'a Measured> {
    let experiment = &found.experiment;
    let of = |setting: &&Setting| {
        let policies = experiment.policies(setting).into_iter();
        let shown: Vec<Policy> = policies
            .filter(|policy| !matches!(policy, Policy::Fixed(_)))
            .collect();
        let runs = shown
            .iter()
            .flat_map(|policy| experiment.of(setting, policy));
        runs.collect::<Vec<_>>()
    };
    settings.iter().flat_map(of).collect()
}

/// HTTP/2 beside HTTP/3.
pub(super) fn transports(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    let cascades = experiment.cascades().into_iter();
    let matrices = found.matrices.iter().zip(cascades);
    html! {
        section id="transports" {
            h2 { "HTTP/2 and HTTP/3" }
            @if found.matrices.iter().all(Option::is_none) { p { "No setting was run by both." } }
            @for (matrix, cascade) in matrices {
                @if let Some(matrix) = matrix { h3 { (cascade) } (matrix_table(found, matrix)) }
            }
            p.quiet { "How many times the mean latency by HTTP/2 is that by HTTP/3, over the same images: above 1 where HTTP/3 answers \
                sooner. Coloured where the interval leaves no doubt. Below it how many images the device had to answer in place of the \
                cloud, by HTTP/2 and HTTP/3." }
        }
    }
}

fn matrix_table(found: &Findings, matrix: &Matrix) -> Markup {
    let experiment = &found.experiment;
    let cells = || matrix.lines.iter().flat_map(|line| &line.1).flatten();
    let pairs: usize = cells().map(|cell| cell.faster.images).sum();
    html! {
        div.scroll { table.matrix {
            thead { tr { th { "link" } @for policy in &matrix.policies { th { (policy) } } } }
            tbody { @for (setting, cells) in &matrix.lines { tr {
                th { (experiment.words(setting)) }
                @for cell in cells { @match cell {
                    Some(cell) => (matrix_cell(cell)),
                    None => { td { "–" } }
                } }
            } } }
        } }
        details {
            summary { "Medians and 95th percentiles" }
            div.scroll { table {
                thead { tr {
                    th { "link" } th { "policy" } th { "pairs" } th { "median, h2" } th { "h3" } th { "p95, h2" } th { "h3" }
                    th { "p95, h2 over h3" } th { "p99, h2" } th { "h3" }
                } }
                tbody { @for (setting, cells) in &matrix.lines { @for (policy, cell) in matrix.policies.iter().zip(cells) {
                    @if let Some(cell) = cell { tr {
                        @let (h2, h3) = &cell.times;
                        th { (experiment.words(setting)) }
                        td { (policy) }
                        td { (cell.faster.images) }
                        td { (milliseconds(h2.median)) } td { (milliseconds(h3.median)) }
                        td { (milliseconds(h2.p95)) } td { (milliseconds(h3.p95)) }
                        td { (format!("{:.2}", cell.p95.value)) (interval(&cell.p95, 2)) }
                        td { (milliseconds(h2.p99)) } td { (milliseconds(h3.p99)) }
                    } }
                } } }
            } }
        }
        (source("transport IN ('h2', 'h3'), by profile and policy, joined on repeat and number", 2 * pairs, 2 * cells().count(), None))
    }
}

fn matrix_cell(cell: &Cell) -> Markup {
    let class = match () {
        () if cell.faster.low > 1.0 => "better",
        () if cell.faster.high < 1.0 => "worse",
        () => "same",
    };
    html! {
        td class=(class) {
            b { (format!("{:.2}", cell.faster.value)) }
            (interval(&cell.faster, 2))
            @if cell.fallbacks != (0, 0) { small { (cell.fallbacks.0) " / " (cell.fallbacks.1) " fell back" } }
        }
    }
}

/// Bytes an image, and whether the device counts them rightly.
pub(super) fn bytes(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    let most = found.bytes.iter().map(|bytes| bytes.sent + bytes.received);
    let most = most.fold(1.0, f64::max);
    html! {
        section id="bytes" {
            h2 { "Bytes an image" }
            @for cascade in experiment.cascades() {
                @let lines: Vec<&Bytes> = found.bytes.iter().filter(|bytes| bytes.cascade == cascade).collect();
                @if !lines.is_empty() {
                    h3 { (cascade) }
                    div.scroll { table.wide {
                        thead { tr {
                            th { "policy" } th { "by" } th { "sent as" } th { "images" } th { "requests" } th { "wire, up" }
                            th { "wire, down" } th { "beside the image" } th {}
                        } }
                        tbody { @for bytes in lines { (bytes_line(bytes, most)) } }
                    } }
                }
            }
            p.quiet { "Mean kilobytes of an image, whether it was sent or not, over all links that stay as they are. On the wire is what \
                the path counts, from the network layer's headers on: handshakes, replies and what was sent again included, and so \
                also for the images before those that are measured. A bar is requests (dark) and all else, up and down." }
            (source("all on profiles without changes, by cascade, policy, transport and payload; path_sent_bytes of runs.csv",
                found.bytes.iter().map(|bytes| bytes.images).sum(),
                found.experiment.runs.iter().filter(|run| !experiment.changes(&run.record.run.profile)).count(), None))
            (counts(found))
        }
    }
}

fn bytes_line(bytes: &Bytes, most: f64) -> Markup {
    let kilobytes = |bytes: f64| format!("{:.1} kB", bytes / 1e3);
    let wire = bytes.sent + bytes.received;
    let width = |part: f64| format!("width:{:.2}%", 100.0 * part.max(0.0) / most);
    html! { tr {
        th { (bytes.policy) }
        td { (bytes.transport) }
        td { (bytes.payload) }
        td { (bytes.images) }
        td { (kilobytes(bytes.request)) }
        td { (kilobytes(bytes.sent)) }
        td { (kilobytes(bytes.received)) }
        td { @if bytes.request > 0.0 { (format!("{:+.0} %", 100.0 * (wire / bytes.request - 1.0))) } @else { "–" } }
        td.bars { div.bar.low {
            span style=(format!("{};background:rgb(34,139,230)", width(bytes.request.min(wire)))) {}
            span style=(format!("{};background:rgba(34,139,230,.45)", width(wire - bytes.request))) {}
        } }
    } }
}

fn counts(found: &Findings) -> Markup {
    let mut by: Vec<(&str, &'static str, Vec<f64>)> = Vec::new();
    for counted in &found.counts() {
        let run = &counted.run.record.run;
        let (profile, transport) = (run.profile.as_str(), run.transport.as_str());
        match by
            .iter_mut()
            .find(|line| (line.0, line.1) == (profile, transport))
        {
            Some(line) => line.2.push(counted.off),
            None => by.push((profile, transport, vec![counted.off])),
        }
    }
    let place = |name: &str| {
        found
            .experiment
            .order
            .iter()
            .position(|other| other == name)
    };
    by.sort_by_key(|line| (place(line.0), line.1));
    html! {
        div id="counts" {
            h3 { "Does the device count them rightly?" }
            @if by.is_empty() { p { "No run sent anything, or the device program did not count." } }
            @else {
                p { "How far the device's count is from the path's in a run, in the direction in which it is farther off. Above 0 the \
                    device counts more, as where a packet is lost before it is counted." }
                div.scroll { table {
                    thead { tr { th { "link" } th { "by" } th { "runs" } th { "median" } th { "farthest" } th {} } }
                    tbody { @for (profile, transport, off) in &by {
                        @let farthest = off.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or_default();
                        @let median = crate::percentile::nearest_rank(&mut off.clone(), 50).unwrap_or_default();
                        tr {
                            th { (profile) }
                            td { (transport) }
                            td { (off.len()) }
                            td { (format!("{:+.2} %", 100.0 * median)) }
                            td { (format!("{:+.2} %", 100.0 * farthest)) }
                            td { (verdict(if farthest.abs() <= OFF { Verdict::Holds } else { Verdict::Fails })) }
                        }
                    } }
                } }
                (source("agent_sent_bytes, path_sent_bytes and the same received, of runs.csv", found.counts().iter()
                    .map(|counted| counted.run.rows.len()).sum(), found.counts().len(), None))
            }
        }
    }
}

/// What the device spends.
pub(super) fn spent(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    let has_joules = found.spent.iter().any(|spent| spent.joules.is_some());
    let most = found.spent.iter().map(|spent| spent.cpu_ms.value);
    let most = most.fold(1e-9, f64::max);
    html! {
        section id="device" {
            h2 { "What an image costs the device" }
            @for cascade in experiment.cascades() {
                @let lines: Vec<&Spent> = found.spent.iter().filter(|spent| spent.cascade == cascade).collect();
                @if !lines.is_empty() {
                    h3 { (cascade) }
                    div.scroll { table.wide {
                        thead { tr {
                            th { "policy" } th { "runs" } th { "images" } th { "processor" } @if has_joules { th { "energy" } } th {}
                        } }
                        tbody { @for spent in lines { (spent_line(spent, has_joules, most)) } }
                    } }
                }
            }
            @if !has_joules { p { "This machine does not count its energy." } }
            p.quiet { "Processor time of the device program for the measured images, on links that stay as they are; all its networks \
                run on this machine. Intervals are over runs, of all links." @if has_joules { " Energy is the whole machine's: the \
                cloud's and the path's are in it." } }
            (source("device_cpu_seconds and joules of runs.csv, on profiles without changes, by cascade and policy",
                found.spent.iter().map(|spent| spent.images).sum(), found.spent.iter().map(|spent| spent.runs).sum(), None))
        }
    }
}

fn spent_line(spent: &Spent, has_joules: bool, most: f64) -> Markup {
    let of_several = |found: &Estimate, digits: usize| {
        html! { @if spent.runs > 1 { small { (format!("{:.digits$} to {:.digits$}", found.low, found.high)) } } }
    };
    html! { tr {
        th { (spent.policy) }
        td { (spent.runs) }
        td { (spent.images) }
        td { (format!("{:.1} ms", spent.cpu_ms.value)) (of_several(&spent.cpu_ms, 1)) }
        @if has_joules { td { @match &spent.joules {
            Some(joules) => { (format!("{:.2} J", joules.value)) (of_several(joules, 2)) }
            None => "–",
        } } }
        td.bars { div.bar.low { span style=(format!("width:{:.2}%;background:rgb(43,154,102)", 100.0 * spent.cpu_ms.value / most)) {} } }
    } }
}

/// The source of a run that is plotted alone.
pub(super) fn source_of_run(run: &Measured) -> Markup {
    let words = format!("run = '{}'", run.record.run.id);
    source(&words, run.rows.len(), 1, Some(&run.record))
}

/// The source of what is compared in a setting.
pub(super) fn source_of_all(
    found: &Findings,
    setting: &Setting,
    is: fn(&Policy) -> bool,
) -> Markup {
    let experiment = &found.experiment;
    let policies = experiment.policies(setting).into_iter().filter(is);
    let runs: Vec<&Measured> = policies
        .flat_map(|policy| experiment.of(setting, &policy))
        .collect();
    let images = runs.iter().map(|run| run.rows.len()).sum();
    source(&selected(setting), images, runs.len(), None)
}
