//! Sections about paths that change while they are used.

use maud::{Markup, html};

use super::{
    super::plan::Policy,
    Findings,
    events::{self, Move, Outage},
    experiment::{Measured, Setting},
    page::{interval, small, verdict},
    plots,
    regret::{Outcome, Regret},
    sections::{milliseconds, source_of_all, source_of_run},
    speed::Verdict,
};
use crate::{
    report::{Series, figure, legend},
    table::percent,
};

/// Timelines of runs beside each other, below one legend.
fn timelines(found: &Findings, runs: &[(&Measured, Vec<(f64, f64)>)]) -> Markup {
    let experiment = &found.experiment;
    let mut named: Vec<Series> = Vec::new();
    let plots: Vec<_> = runs
        .iter()
        .map(|(measured, away)| {
            let run = &measured.record.run;
            let deadline = experiment.deadline_ms(&run.cascade);
            let plot = plots::timeline(measured, away, deadline, crate::report::NARROW);
            for series in &plot.series {
                if !named.iter().any(|other| other.name == series.name) {
                    named.push(series.clone());
                }
            }
            let title = format!(
                "{}, {}, {}, {}",
                run.profile, run.cascade, run.policy, run.transport
            );
            (title, plot, source_of_run(measured))
        })
        .collect();
    html! {
        (legend(&named))
        div.pairs { @for (title, plot, source) in &plots { (small(title, plot, source)) } }
    }
}

/// Of each combination the first repeat, of policies that send: enough to see what happens.
fn first_repeats<'a>(
    found: &'a Findings,
    all: impl Iterator<Item = (&'a Measured, Vec<(f64, f64)>)>,
) -> Vec<(&'a Measured, Vec<(f64, f64)>)> {
    let is_shown = |measured: &Measured| {
        let run = &measured.record.run;
        let policies = found.experiment.policies_of(&run.cascade);
        let first = policies.iter().find(|p| matches!(p, Policy::Learned(_)));
        run.policy == Policy::CloudOnly || Some(&run.policy) == first
    };
    let mut shown: Vec<(&Measured, Vec<(f64, f64)>)> = Vec::new();
    for (measured, away) in all.filter(|(measured, _)| is_shown(measured)) {
        let key = |measured: &Measured| {
            let run = measured.record.run.clone();
            (
                run.profile,
                run.cascade,
                run.policy.to_string(),
                run.transport,
                run.payload,
            )
        };
        match shown.iter().position(|other| key(other.0) == key(measured)) {
            Some(place) if shown[place].0.record.run.id == measured.record.run.id => {
                shown[place].1.extend(away);
            }
            Some(place) if shown[place].0.record.run.repeat > measured.record.run.repeat => {
                shown[place] = (measured, away);
            }
            Some(_) => {}
            None => shown.push((measured, away)),
        }
    }
    shown.sort_by_key(|(measured, _)| {
        let run = &measured.record.run;
        let cascades = found.experiment.cascades();
        let place = cascades.iter().position(|name| *name == run.cascade);
        (place, run.policy.to_string(), run.transport.as_str())
    });
    shown
}

/// What happens while there is no path.
pub(super) fn outages(found: &Findings) -> Markup {
    let outages = found.outages();
    let away = |outage: &Outage<'_>| vec![(outage.down / 1e3, outage.up / 1e3)];
    let runs = first_repeats(
        found,
        outages.iter().map(|outage| (outage.run, away(outage))),
    );
    html! {
        section id="outage" {
            h2 { "An outage" }
            @if outages.is_empty() { p { "No run saw its path go down." } }
            @else {
                p { "A dot is an image: when it came, and how long its caller waited. Grey: the path is down." }
                (timelines(found, &runs))
                div.scroll { table {
                    thead { tr {
                        th { "run" } th { "down for" } th { "images meanwhile" } th { "late" } th { "slowest" } th {}
                        th { "the cloud answers after" } th { "asked in vain" } th {}
                    } }
                    tbody { @for outage in &outages { (outage_line(outage)) } }
                } }
                p.quiet { "Late: beyond the deadline and " (format!("{:.0}", events::LATE_MS)) " ms, or without an answer. After: from \
                    the path's being up again to the first answer of the cloud; in vain, images begun before that which the device \
                    answered in its place." }
            }
        }
    }
}

/// A run at the head of a line: who decided, by what, and its identifier.
fn run_head(measured: &Measured) -> Markup {
    let run = &measured.record.run;
    html! { th.id { (run.policy) ", " (run.transport) small { (run.id) } } }
}

fn outage_line(outage: &Outage<'_>) -> Markup {
    let seconds = match outage.up.is_finite() {
        true => format!("{:.1} s", (outage.up - outage.down) / 1e3),
        false => "the rest".to_owned(),
    };
    html! { tr {
        (run_head(outage.run))
        td { (seconds) }
        td { (outage.images) }
        td { (outage.late) }
        td { (milliseconds(outage.slowest)) }
        td { (verdict(outage.answered())) }
        td { (outage.resumed.map_or("–".to_owned(), milliseconds)) }
        td { (outage.in_vain) }
        td { (verdict(outage.resumes())) }
    } }
}

/// What happens where the device gets another address.
pub(super) fn moves(found: &Findings) -> Markup {
    let moves = found.moves();
    let at = |moved: &Move<'_>| vec![(moved.at / 1e3, moved.at / 1e3)];
    let runs = first_repeats(found, moves.iter().map(|moved| (moved.run, at(moved))));
    html! {
        section id="address" {
            h2 { "Another address" }
            @if moves.is_empty() { p { "No run that sends images saw the device's address change." } }
            @else {
                p { "As where a telephone goes from one network to another. HTTP/3 goes on with the connection that it has; HTTP/2 must \
                    find out that its own is dead." }
                (timelines(found, &runs))
                div.scroll { table {
                    thead { tr {
                        th { "run" } th { "calls after it" } th { "lost" } th { "longest stall" } th { "allowed" } th { "elsewhere" } th {}
                    } }
                    tbody { @for moved in &moves { tr {
                        (run_head(moved.run))
                        td { (moved.calls) }
                        td { (moved.lost) }
                        td { (milliseconds(moved.stalled)) }
                        td { (milliseconds(moved.bound)) }
                        td { (milliseconds(moved.usual)) }
                        td { (verdict(moved.verdict())) }
                    } } }
                } }
                p.quiet { "Lost: the device answered in place of the cloud, or nobody did. A stall is what a call that was under way, or \
                    begun within two seconds, took beyond what one of so many bytes takes elsewhere in the run; the last figure is the \
                    most that other calls took beyond it. The target is of HTTP/3; HTTP/2 is shown beside it." }
            }
        }
    }
}

/// Policies that follow the link, beside those that keep to a point.
pub(super) fn following(found: &Findings) -> Markup {
    let experiment = &found.experiment;
    let is_of = |policy: &Policy| matches!(policy, Policy::Learned(_) | Policy::Fixed(_));
    let mut settings: Vec<&Setting> = Vec::new();
    for regret in &found.regrets {
        if !settings.contains(&&regret.setting) {
            settings.push(&regret.setting);
        }
    }
    let shown = settings
        .iter()
        .filter(|s| s.transport == experiment.transport());
    html! {
        section id="following" {
            h2 { "Following the link, or keeping to a point" }
            @if found.regrets.is_empty() {
                p { "No profile that changes was run with policies that follow the link beside fixed ones." }
            }
            @else {
                (regret_table(found))
                @for setting in shown {
                    h3 { (experiment.words(setting)) ", " (setting.cascade) ", " (setting.transport) }
                    @let first = experiment.policies(setting).iter().flat_map(|p| experiment.of(setting, p)).next();
                    @if let Some(plot) = first.and_then(|run| plots::rates(experiment, run)) { (figure(&plot, "")) }
                    (figure(&plots::following(experiment, setting), source_of_all(found, setting, is_of)))
                }
            }
        }
    }
}

fn regret_table(found: &Findings) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th { "goal" } th { "follows" } th { "keeps to it" } th { "following saves" }
                th { "best point after all" } th { "regret" } th {}
            } }
            tbody { @for regret in &found.regrets { (regret_line(found, regret)) } }
        } }
        p.quiet { "Mean latency and top-1 of each; below, what was sent and what fell back. Saved is the mean over the same images of \
            following beside the same goal's point kept throughout. Regret is what following loses to the fastest fixed point that is \
            no more than a point less accurate on the same images, chosen after all was over: below 0 where no fixed point is as good. \
            As that is picked where it is judged, regret is told rather too high." }
    }
}

fn regret_line(found: &Findings, regret: &Regret) -> Markup {
    html! { tr {
        th.id {
            (regret.goal)
            small { (found.experiment.words(&regret.setting)) ", " (regret.setting.cascade) ", " (regret.setting.transport) }
        }
        td { (outcome(&regret.followed)) }
        @match &regret.kept {
            Some((kept, saved)) => {
                td { (outcome(kept)) }
                td { b { (format!("{:+.0} ms", saved.value)) } (interval(saved, 0)) }
            }
            None => { td { "–" } td { "–" } }
        }
        @match &regret.best {
            Some((policy, best, lost)) => {
                td { b { (policy) } br; (outcome(best)) }
                td {
                    b { (format!("{:+.0} ms", lost.value)) }
                    (interval(lost, 0))
                    small { (format!("{:+.0} %", 100.0 * lost.value / best.mean.max(1e-9))) }
                }
                td { (verdict_of_regret(lost.low, lost.high)) }
            }
            None => { td { "none is as accurate" } td { "–" } td { (verdict_of_regret(f64::NEG_INFINITY, -1.0)) } }
        }
    } }
}

/// In words what an interval of a regret says.
fn verdict_of_regret(low: f64, high: f64) -> Markup {
    let (class, words) = match () {
        () if high < 0.0 => (Verdict::Holds, "better than any"),
        () if low > 0.0 => (Verdict::Fails, "one is better"),
        () => (Verdict::Open, "no difference seen"),
    };
    let class = match class {
        Verdict::Holds => "holds",
        Verdict::Fails => "fails",
        _ => "open",
    };
    html! { span class=(format!("verdict {class}")) { (words) } }
}

fn outcome(outcome: &Outcome) -> Markup {
    html! {
        (milliseconds(outcome.mean)) ", " (percent(outcome.top1))
        small { (percent(outcome.sent)) " sent, " (percent(outcome.fallbacks)) " fell back" }
    }
}
