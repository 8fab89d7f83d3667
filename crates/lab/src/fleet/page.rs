//! The results of a plan as one page that needs nothing else.

use maud::{Markup, html};

use super::{
    Results, cost, gbit, notes,
    rows::Row,
    servers,
    validate::Record,
    workload::{Kind, Policy},
};
use crate::{
    report::{Mark, Plot, Scale, Series, WIDE, document, figure},
    table::percent,
};

/// The page.
pub(super) fn page(results: &Results) -> Markup {
    let title = "A fleet, simulated";
    let plan = &results.plan;
    let body = html! {
        header {
            h1 { (title) }
            p {
                (results.workload.network) " on " (plan.server.name) ", before "
                (count(plan.devices.iter().min())) " to " (count(plan.devices.iter().max())) " devices with "
                (plan.arrivals.per_device_hour) " images an hour each, " (plan.arrivals.peak_over_mean)
                " times as many in the busiest hour (" (plan.arrivals.kind.as_str()) ")."
            }
            (cards(results))
        }
        main {
            section {
                h2 { "Servers" }
                (figure(&plot(results, "servers", |row| row.sized.holds.then_some(row.sized.run.servers.into())),
                    "The fewest with which the target holds."))
            }
            section {
                h2 { "Bytes that come in" }
                (figure(&plot(results, "Gbit/s in the busiest hour", |row| Some(row.ingress_gbit())),
                    "With what carries them, over all servers."))
            }
            section {
                h2 { "Cost" }
                (figure(&plot(results, "cost of a million images",
                    |row| row.sized.holds.then_some(row.sized.cost_per_million)),
                    format!("In {}, at the plan's prices; the devices' own cost is not in it.", plan.prices.currency)))
            }
            (policies(results))
            (fleets(results))
            (validation(results.validation.as_ref()))
            section {
                h2 { "How to read this" }
                @for note in notes(results) { p { (note) } }
            }
        }
        footer {
            p {
                "Plan " code { (short(&results.origin.plan_sha256)) } ", policy "
                code { (short(&results.origin.policy_sha256)) } ", images "
                code { (short(&results.origin.images_sha256)) } ", times of batches "
                code { (short(&results.origin.service_sha256)) } ", seed " (results.origin.seed)
                ". Times of the devices' networks: " (results.workload.processor) ", " (plan.device.time_scale)
                " times as long."
            }
        }
    };
    document(title, &body)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn count(devices: Option<&u32>) -> String {
    let digits = devices.copied().unwrap_or_default().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The largest fleet, in figures: the last operating point beside the cloud alone.
fn cards(results: &Results) -> Markup {
    let most = results.plan.devices.iter().max();
    let of = |kind: Kind| {
        let mut rows = results.rows.iter().rev();
        rows.find(|row| Some(&row.sized.devices) == most && row.policy.kind == kind)
    };
    let (learned, alone) = (of(Kind::Learned), of(Kind::CloudOnly));
    let both = |what: &dyn Fn(&Row) -> String| {
        let of = |row: Option<&Row>| row.map_or("–".to_owned(), what);
        (of(learned), of(alone))
    };
    let is_given = results.plan.server.count.is_some();
    let figures = [
        ("servers", both(&|row| servers(row, is_given))),
        ("Gbit/s in", both(&|row| gbit(row.ingress_gbit()))),
        (
            "a million images",
            both(&|row| {
                let cost = cost(row.sized.cost_per_million);
                format!("{cost} {}", results.plan.prices.currency)
            }),
        ),
    ];
    html! {
        div.cards {
            @for (what, (learned, alone)) in figures {
                div.card { b { (learned) } span { (what) " for " (count(most)) " devices; the cloud alone " (alone) } }
            }
        }
    }
}

/// A figure by the number of devices, a line a policy.
fn plot(results: &Results, y: &'static str, of: impl Fn(&Row) -> Option<f64>) -> Plot {
    let series = results.workload.policies.iter().enumerate();
    let series = series.filter_map(|(colour, policy)| {
        let rows = results
            .rows
            .iter()
            .filter(|row| row.policy.name == policy.name);
        let points: Vec<(f64, f64)> = rows
            .filter_map(|row| Some((f64::from(row.sized.devices), of(row)?)))
            .filter(|&(_, y)| y > 0.0)
            .collect();
        (!points.is_empty()).then(|| Series {
            name: policy.name.clone(),
            colour,
            mark: Mark::Line,
            points,
        })
    });
    let lines: Vec<Series> = series.collect();
    let dots = lines.iter().map(|line| Series {
        name: String::new(),
        mark: Mark::Dots,
        ..line.clone()
    });
    Plot {
        x: "devices",
        y,
        series: lines.iter().cloned().chain(dots).collect(),
        scale: Scale::Logarithmic,
        ..Plot::new(WIDE)
    }
}

fn policies(results: &Results) -> Markup {
    let row = |policy: &Policy| {
        let (low, high) = policy.lost_interval;
        html! { tr {
            th { (policy.name) }
            td { (percent(policy.accuracy)) }
            td { b { (format!("{:.2}", policy.points_lost)) } small { (format!("{low:.2} to {high:.2}")) } }
            td { (percent(policy.offload_rate)) }
            td { (format!("{:.1}", 1e3 * policy.device_seconds)) }
        } }
    };
    html! {
        section {
            h2 { "Policies, on the images of the trace" }
            div.scroll { table {
                thead { tr { th { "policy" } th { "top-1" } th { "points lost" } th { "sent" } th { "device ms" } } }
                tbody { @for policy in &results.workload.policies { (row(policy)) } }
            } }
            p {
                "Against the cloud's network on the same " (results.workload.files.len())
                " images; intervals are 95 %, by bootstrap. A fleet compared at equal accuracy is that of the operating \
                 point that loses no more points than are given away."
            }
        }
    }
}

/// The name of a policy without the operating points that a goal came to, which the table of policies has.
fn goal(policy: &Policy) -> &str {
    let name = policy.name.as_str();
    name.split_once(" (").map_or(name, |(goal, _)| goal)
}

fn fleets(results: &Results) -> Markup {
    let is_given = results.plan.server.count.is_some();
    let row = |row: &Row| {
        let run = &row.sized.run;
        html! { tr {
            th { @if row.policy.kind == Kind::CloudOnly { (count(Some(&row.sized.devices))) } }
            td style="text-align:left" { (goal(&row.policy)) }
            td { b { (servers(row, is_given)) } }
            td {
                @match run.sent_p99 {
                    Some(p99) => {
                        (format!("{:.0}", 1e3 * p99.value))
                        small { (format!("{:.0}–{:.0}", 1e3 * p99.low, 1e3 * p99.high)) }
                    }
                    None => "–",
                }
            }
            td { (run.in_time.map_or("–".to_owned(), |e| format!("{:.2} %", 100.0 * e.value))) }
            td { (percent(run.accuracy)) }
            td { (percent(run.utilisation)) }
            td { (gbit(row.ingress_gbit())) }
            td { (cost(row.sized.cost_per_million)) }
            td { @if row.not_validated.is_empty() { "✓" } @else { "no" } }
        } }
    };
    html! {
        section {
            h2 { "Fleets" }
            div.scroll { table {
                thead { tr {
                    th { "devices" } th style="text-align:left" { "policy" } th { "servers" } th { "p99 of sent, ms" } th { "in time" } th { "top-1" }
                    th { "busy" } th { "Gbit/s" } th { (results.plan.prices.currency) " per million" } th { "validated" }
                } }
                tbody { @for one in &results.rows { (row(one)) } }
            } }
        }
    }
}

fn validation(record: Option<&Record>) -> Markup {
    let Some(record) = record else {
        return html! {};
    };
    let figures: Vec<&str> = record
        .points
        .first()
        .map(|point| {
            point
                .compared
                .iter()
                .map(|one| one.figure.as_str())
                .collect()
        })
        .unwrap_or_default();
    html! {
        section {
            h2 { "The simulator beside real runs" }
            p {
                "By how much the simulator is above what the real cloud-service did with real connections on "
                (record.link) " (" (record.network) ", " (record.machine) ", " (record.cores) " cores); ✗ where that is more than "
                (percent(record.tolerance)) "."
            }
            div.scroll { table {
                thead { tr { th { "devices" } @for figure in &figures { th { (figure) } } } }
                tbody { @for point in &record.points { tr {
                    th { (point.devices) }
                    @for one in &point.compared {
                        td { (format!("{:+.1} %", 100.0 * one.apart())) @if !one.is_within { " ✗" } }
                    }
                } } }
            } }
        }
    }
}
