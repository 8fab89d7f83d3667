//! A page of summaries: what each cascade bought, and where on its frontier it ran.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{Policy, Summary};
use crate::{
    report::{Mark, Plot, Series, WIDE, document, figure},
    table::percent,
};

/// The page of all entries.
pub(super) fn page(summaries: &BTreeMap<String, Summary>) -> Markup {
    let body = html! {
        header {
            h1 { "Easy images here, hard ones in the cloud" }
            p { "What each cascade did with the sample images, beside the device alone and the cloud alone." }
        }
        main { @for (name, summary) in summaries { (cascade(name, summary)) } }
    };
    document("Outpost: easy images here, hard ones in the cloud", &body)
}

fn share(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), percent)
}

fn cascade(name: &str, summary: &Summary) -> Markup {
    html! {
        section {
            h2 { (name) }
            div.cards {
                div.card { b { (share(summary.top1)) } span { "right of " (summary.images) " images" } }
                div.card { b { (share(summary.offload_rate())) } span { "answered by the cloud" } }
                div.card { b { (share(summary.device_only_top1)) } span { "right by the device alone" } }
                div.card { b { (share(summary.cloud_only_top1)) } span { "right by the cloud alone" } }
                @if let Some(milliseconds) = summary.mean_total_ms {
                    div.card { b { (format!("{milliseconds:.1} ms")) } span { "from image to answer" } }
                }
                div.card { b { (format!("{:.0}", summary.bytes_sent as f64 / summary.images.max(1) as f64)) }
                    span { "bytes sent an image" } }
            }
            @if let Some(policy) = &summary.policy { (frontier(policy, summary)) }
        }
    }
}

fn frontier(policy: &Policy, summary: &Summary) -> Markup {
    let at = |rate: f64, top1: f64| (100.0 * rate, 100.0 * top1);
    let mut points: Vec<(f64, f64)> = policy
        .frontier
        .iter()
        .map(|point| at(point.offload_rate, point.top1))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let dot = |name: String, colour, points: Vec<(f64, f64)>| Series {
        name,
        colour,
        mark: Mark::Dots,
        points,
    };
    let mut series = vec![
        Series {
            name: "learned operating points, as expected".to_owned(),
            colour: 0,
            mark: Mark::Line,
            points: points.clone(),
        },
        dot(String::new(), 0, points),
    ];
    let ran = &policy.ran;
    let name = format!("{} is running", ran.name);
    series.push(dot(name, 1, vec![at(ran.offload_rate, ran.top1)]));
    if let (Some(rate), Some(top1)) = (summary.offload_rate(), summary.top1) {
        let name = format!("measured on these {} images", summary.images);
        series.push(dot(name, 2, vec![at(rate, top1)]));
    }
    let plot = Plot {
        x: "offloaded, %",
        y: "top-1, %",
        series,
        ..Plot::new(WIDE)
    };
    html! {
        div.spaced {
            (figure(&plot, "Expected on images that the policy was not learned from; a sample this small \
                scatters around that."))
        }
    }
}
