//! `lab report`: a study as one page that needs nothing else, with plots.

mod plot;

use std::{fs, io::Write, path::PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};
use outpost_exit_policy::Measure;

use crate::{
    evaluate::{set_name, times},
    frontier::Frontier,
    learn::LearnPolicyError,
    study::{
        Calibration, Comparison, ExitTable, Kind, LOSSES, Rival, Study, StudyArgs, find, study,
    },
    table::percent,
};
use plot::PALETTE;
pub(crate) use plot::{Mark, Plot, Scale, Series};

/// How pages look.
const CSS: &str = include_str!("report/page.css");
/// Size of a wide plot.
pub(crate) const WIDE: (u32, u32) = (860, 420);
/// Size of one of several plots in a row.
pub(crate) const NARROW: (u32, u32) = (420, 320);

/// What `lab report` is asked.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// What to study.
    #[command(flatten)]
    pub study: StudyArgs,
    /// Where the page goes.
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
}

/// Size of one of many plots in a grid.
pub(crate) const SMALL: (u32, u32) = (330, 250);

/// Runs `lab report`.
///
/// # Errors
/// A [`LearnPolicyError`] that names what is at fault.
pub fn run(args: &ReportArgs, out: &mut dyn Write) -> Result<(), LearnPolicyError> {
    let study = study(&args.study)?;
    fs::write(&args.out, page(&study).into_string()).map_err(|source| LearnPolicyError::Write {
        path: args.out.clone(),
        source,
    })?;
    writeln!(out, "{}", args.out.display())?;
    Ok(())
}

/// A page that needs nothing else.
pub(crate) fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(CSS)) }
            }
            body { (body) }
        }
    }
}

fn page(study: &Study) -> Markup {
    let title = format!("Exit policies for {}", study.cascade);
    let body = html! {
        header {
            h1 { (title) }
            p { (setting(study)) }
            (headlines(study))
        }
        main {
            (trade_off(study))
            (topologies(study))
            (against_thresholds(study))
            (shares(study))
            (exits(study))
            (overlap(study))
            (calibration(study))
        }
        footer {
            p {
                "Times are medians over the judged images, each network on one thread"
                @if !study.processor.is_empty() { " of " (study.processor) }
                "; intervals are 95 %, by bootstrap over examples. The points of a curve are those of \
                 its lower hull; between two a coin decides for each image."
            }
        }
    };
    document(&title, &body)
}

fn setting(study: &Study) -> String {
    let images = match study.folds {
        Some(folds) => format!(
            "{} labelled images; in {folds} turns, policies learned from the others judge a part.",
            study.judged_on
        ),
        None => format!(
            "Policies learned from {} labelled images and judged on {} that they have not seen.",
            study.learned_from, study.judged_on
        ),
    };
    match study.link {
        Some(link) => format!(
            "{images} The link between sites: {} ms round trip, {} Mbit/s up.",
            link.round_trip.as_secs_f64() * 1e3,
            link.uplink_bits_per_sec / 1e6
        ),
        None => images,
    }
}

/// A few figures to see first.
fn headlines(study: &Study) -> Markup {
    let best = study.speed_ups.last();
    let ratio = |loss: usize| {
        let found = best.and_then(|speed_up| speed_up.learned[loss]);
        times(found.map(|(ratio, _)| ratio))
    };
    let largest = study.networks.last().map_or("", String::as_str);
    html! {
        div.cards {
            div.card { b { (ratio(0)) } span { "faster than " (largest) " at no loss of top-1" } }
            div.card { b { (ratio(1)) } span { "at one point of loss" } }
            div.card {
                b { (percent(1.0 - study.largest.mean_loss())) }
                span { (largest) " alone, " (format!("{:.2} ms", 1e3 * study.largest.mean_seconds())) }
            }
        }
    }
}

/// A plot with its legend.
pub(crate) fn figure(plot: &Plot, caption: impl Render) -> Markup {
    html! {
        figure {
            (PreEscaped(plot.svg()))
            figcaption {
                (legend(&plot.series))
                (caption)
            }
        }
    }
}

/// The names of series beside their colours.
pub(crate) fn legend(series: &[Series]) -> Markup {
    html! {
        ul.legend {
            @for series in series.iter().filter(|series| !series.name.is_empty()) {
                li {
                    @let (r, g, b) = PALETTE[series.colour % PALETTE.len()];
                    i.dot[matches!(series.mark, Mark::Dots | Mark::SmallDots)]
                        .thin[series.mark == Mark::Thin]
                        style=(format!("background:rgb({r},{g},{b})")) {}
                    (series.name)
                }
            }
        }
    }
}

/// Milliseconds and accuracy of a frontier, with the flat end up to `until` seconds.
fn line(frontier: &Frontier, until: f64) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = frontier
        .points
        .iter()
        .map(|outcomes| {
            (
                1e3 * outcomes.mean_seconds(),
                100.0 * (1.0 - outcomes.mean_loss()),
            )
        })
        .collect();
    if let Some(&(milliseconds, accuracy)) = points.last()
        && milliseconds < 1e3 * until
    {
        points.push((1e3 * until, accuracy));
    }
    points
}

fn alone(study: &Study) -> Series {
    let networks = study
        .curves
        .iter()
        .filter(|curve| curve.kind == Kind::Alone);
    Series {
        name: format!("{} alone", study.letters.join(", ")),
        colour: 7,
        mark: Mark::Dots,
        points: networks
            .map(|curve| {
                (
                    1e3 * curve.judged[0].seconds,
                    100.0 * curve.judged[0].accuracy,
                )
            })
            .collect(),
    }
}

fn trade_off(study: &Study) -> Markup {
    let until = study.largest.mean_seconds();
    let kinds = [
        (Kind::Random, 7, Mark::Line),
        (Kind::FreeOracle, 4, Mark::Thin),
        (Kind::SoftOracle, 4, Mark::Line),
        (Kind::OneThreshold(Measure::MaxProbability), 1, Mark::Thin),
        (Kind::OneThreshold(Measure::Margin), 2, Mark::Thin),
        (Kind::OneThreshold(Measure::Entropy), 3, Mark::Thin),
        (Kind::Thresholds(Measure::MaxProbability), 5, Mark::Thin),
        (Kind::Learned, 0, Mark::Line),
    ];
    let series = kinds.iter().filter_map(|&(kind, colour, mark)| {
        let curve = find(&study.curves, &study.full_tree, kind)?;
        Some(Series {
            name: kind.as_str().to_owned(),
            colour,
            mark,
            points: line(&curve.frontier, until),
        })
    });
    let plot = by_time(study, series);
    html! {
        section {
            h2 { "What time buys" }
            (figure(&plot, "The soft oracle knows the labels but may not correct the largest network; the \
                free oracle may answer with any network on the way."))
            p.paper {
                "The paper reports up to 2.8 times faster than the large network at less than 1 % loss of \
                 top-5 accuracy on ImageNet, with AlexNet, GoogLeNet and ResNet-50."
            }
        }
    }
}

/// Accuracy by time, with the networks alone.
fn by_time(study: &Study, series: impl Iterator<Item = Series>) -> Plot {
    Plot {
        x: "mean time an image, ms",
        y: "top-1, %",
        series: series.chain([alone(study)]).collect(),
        ..Plot::new(WIDE)
    }
}

/// The points of loss of tables with speed-ups.
fn loss_headers() -> Markup {
    html! { @for loss in LOSSES { th { (loss) @if loss == 1.0 { " point" } @else { " points" } } } }
}

fn topologies(study: &Study) -> Markup {
    let until = study.largest.mean_seconds();
    let series = study
        .speed_ups
        .iter()
        .enumerate()
        .filter_map(|(index, speed_up)| {
            let curve = find(&study.curves, &speed_up.topology, Kind::Learned)?;
            Some(Series {
                name: speed_up.topology.clone(),
                colour: index,
                mark: Mark::Line,
                points: line(&curve.frontier, until),
            })
        });
    let plot = by_time(study, series);
    html! {
        section {
            h2 { "Every topology, learned" }
            @if study.speed_ups.len() > 1 { (figure(&plot, "")) }
            div.scroll { table {
                thead { tr {
                    th { "topology" }
                    (loss_headers())
                    th { "offloaded at 0" }
                    th { "best, over the largest" }
                } }
                tbody { @for speed_up in &study.speed_ups { tr {
                    th { (speed_up.topology) }
                    @for (learned, random) in speed_up.learned.iter().zip(&speed_up.random) {
                        td {
                            @match learned {
                                Some((ratio, interval)) => {
                                    b { (times(Some(*ratio))) }
                                    small { (format!("{:.2}–{:.2}", interval.low, interval.high)) }
                                }
                                None => "–",
                            }
                            small { "by chance " (times(*random)) }
                        }
                    }
                    td {
                        @match speed_up.zero_loss_offload {
                            Some((rate, interval)) => {
                                b { (percent(rate)) }
                                small { (percent(interval.low)) " to " (percent(interval.high)) }
                            }
                            None => "–",
                        }
                    }
                    td {
                        b { (format!("{:+.2}", speed_up.best_gain.0)) }
                        small { (format!("{:+.2} to {:+.2}", speed_up.best_gain.1.low, speed_up.best_gain.1.high)) }
                    }
                } } }
            } }
            p { "How many times faster than the largest network alone, by points of top-1 lost against it." }
        }
    }
}

/// What a comparison gains over its rival.
fn gain_plot(comparison: &Comparison) -> Plot {
    let budgets = || comparison.budgets.iter();
    let gain = budgets().map(|b| (1e3 * b.seconds, 100.0 * (b.threshold - b.learned)));
    let zero = budgets().map(|b| (1e3 * b.seconds, 0.0));
    Plot {
        x: "mean time an image, ms",
        y: "points gained",
        series: vec![
            Series {
                name: String::new(),
                colour: 7,
                mark: Mark::Thin,
                points: zero.collect(),
            },
            Series {
                name: format!("learned over {}", comparison.rival.as_str()),
                colour: 0,
                mark: Mark::Line,
                points: gain.collect(),
            },
        ],
        band: budgets()
            .map(|b| (1e3 * b.seconds, 100.0 * b.gain.0, 100.0 * b.gain.1))
            .collect(),
        ..Plot::new(NARROW)
    }
}

fn against_thresholds(study: &Study) -> Markup {
    let networks = study.speed_ups.last();
    let exits = study.exits.last();
    let plotted = networks
        .map(|speed_up| speed_up.topology.as_str())
        .into_iter()
        .chain(exits.map(|table| table.topology.as_str()));
    html! {
        section {
            h2 { "Against tuned thresholds" }
            @for topology in plotted {
                h3 { (topology) }
                div.row {
                    @for comparison in study.comparisons.iter().filter(|c| c.topology == topology) {
                        (figure(&gain_plot(comparison), ""))
                    }
                }
            }
            p { "One threshold is the hand-written rule: the same at every node. A threshold a node is tuned \
                by the learner, from the last node to the first. At each time the best of three measures is \
                taken where it is judged, in its favour. A band holds at all times at once with 95 % \
                confidence." }
            div.scroll { table {
                thead { tr {
                    th { "topology" } th { "against" } th { "times" } th { "learned better" } th { "thresholds better" }
                    th { "learned to soft oracle" } th { "learned to free oracle" } th { "thresholds to free oracle" }
                } }
                tbody { @for comparison in &study.comparisons {
                    @let (better, worse) = comparison.verdicts();
                    tr {
                        th { @if comparison.rival == Rival::ALL[0] { (comparison.topology) } }
                        td { (comparison.rival.as_str()) }
                        td { (comparison.budgets.len()) }
                        td { (better) }
                        td { (worse) }
                        td { (format!("{:+.2}", comparison.above_soft_oracle)) }
                        td { (format!("{:+.2}", comparison.above_free_oracle)) }
                        td { (format!("{:+.2}", comparison.rival_above_free_oracle)) }
                    }
                } }
            } }
            p { "The last columns are mean areas between the curves, in points of loss." }
        }
    }
}

/// Shares as a bar.
fn bar(shares: &[f64], letters: &[String]) -> Markup {
    html! {
        div.bar {
            @for (index, (share, letter)) in shares.iter().zip(letters).enumerate() {
                @let (r, g, b) = PALETTE[index % PALETTE.len()];
                span style=(format!("width:{:.2}%;background:rgb({r},{g},{b})", 100.0 * share))
                    title=(format!("{letter}: {}", percent(*share))) {
                    @if *share > 0.08 { (letter) " " (format!("{:.0} %", 100.0 * share)) }
                }
            }
        }
    }
}

fn shares(study: &Study) -> Markup {
    html! {
        @if !study.shares.is_empty() { section {
            h2 { "Where examples and time go" }
            div.scroll { table.wide {
                thead { tr { th { "mean time" } th { "top-1" } th { "answers" } th { "time" } } }
                tbody { @for share in &study.shares { tr {
                    th { (percent(share.budget)) " of the largest" }
                    td { (percent(share.accuracy)) }
                    td.bars { (bar(&share.answered, &study.letters)) }
                    td.bars { (bar(&share.time, &study.letters)) }
                } } }
            } }
        } }
    }
}

fn exit_plot(study: &Study, table: &ExitTable) -> Plot {
    let until = table.whole.mean_seconds();
    let kinds = [
        (Kind::Random, 7),
        (Kind::OneThreshold(Measure::MaxProbability), 2),
        (Kind::Learned, 0),
    ];
    let series = kinds.into_iter().filter_map(|(kind, colour)| {
        let curve = find(&study.curves, &table.topology, kind)?;
        Some(Series {
            name: kind.as_str().to_owned(),
            colour,
            mark: Mark::Line,
            points: line(&curve.frontier, until),
        })
    });
    let whole = Series {
        name: "whole network".to_owned(),
        colour: 1,
        mark: Mark::Dots,
        points: vec![(1e3 * until, 100.0 * (1.0 - table.whole.mean_loss()))],
    };
    Plot {
        x: "mean time an image, ms",
        y: "top-1, %",
        series: series.chain([whole]).collect(),
        ..Plot::new(NARROW)
    }
}

fn exits(study: &Study) -> Markup {
    html! {
        @if !study.exits.is_empty() { section {
            h2 { "Early exits" }
            div.row { @for table in &study.exits { div {
                h3 { (table.network) }
                (figure(&exit_plot(study, table), ""))
            } } }
            div.scroll { table {
                thead { tr {
                    th { "network" }
                    (loss_headers())
                } }
                tbody { @for table in &study.exits { tr {
                    th { (table.network) }
                    @for row in &table.rows {
                        td {
                            b { (times(row.learned)) }
                            small { "one threshold " (times(row.one_threshold)) }
                            small { "by chance " (times(row.random)) }
                        }
                    }
                } } }
            } }
            p.paper { "The paper reports 20 to 30 % less time for early exits at a small loss, in GoogLeNet and ResNet-50 on ImageNet." }
        } }
    }
}

fn overlap(study: &Study) -> Markup {
    let total: usize = study.overlap.right.iter().sum();
    html! {
        section {
            h2 { "Who is right about the same images" }
            div.scroll { table.wide { tbody {
                @for (set, &count) in study.overlap.right.iter().enumerate().rev() { tr {
                    th { (set_name(set, &study.letters)) }
                    td { (count) }
                    td.bars { div.bar { span style=(format!("width:{:.2}%;background:rgb(34,139,230)", 100.0 * count as f64 / total as f64)) {} } }
                } }
            } } }
            p { "Images that a smaller network gets right and the largest wrong are what a policy can gain over it." }
        }
    }
}

fn calibration_plot(network: &Calibration) -> Plot {
    let points = |bins: &[outpost_exit_policy::calibrate::Bin]| {
        let filled = bins.iter().filter(|bin| bin.count > 0);
        filled
            .map(|bin| (100.0 * bin.confidence, 100.0 * bin.accuracy))
            .collect()
    };
    let series = |name: &str, colour, mark, points| Series {
        name: name.to_owned(),
        colour,
        mark,
        points,
    };
    Plot {
        x: "confidence, %",
        y: "right, %",
        series: vec![
            series("", 7, Mark::Thin, vec![(0.0, 0.0), (100.0, 100.0)]),
            series("before", 1, Mark::Line, points(&network.before)),
            series("after", 0, Mark::Line, points(&network.after)),
        ],
        ..Plot::new(NARROW)
    }
}

fn calibration(study: &Study) -> Markup {
    html! {
        section {
            h2 { "Does a confidence mean what it says?" }
            div.row { @for network in &study.calibrations { div {
                h3 { (network.network) }
                (figure(&calibration_plot(network), format!(
                    "Temperature {:.2}: the calibration error goes from {} to {}.",
                    network.temperature, percent(network.error_before), percent(network.error_after)
                )))
            } } }
        }
    }
}
