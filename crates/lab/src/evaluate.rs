//! `lab evaluate`: a study as tables for a terminal and as CSV files.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    learn::LearnPolicyError,
    study::{LOSSES, Study, StudyArgs, study},
    table::{percent, row, table},
};

/// What `lab evaluate` is asked.
#[derive(Debug, clap::Args)]
pub struct EvaluateArgs {
    /// What to study.
    #[command(flatten)]
    pub study: StudyArgs,
    /// A folder for the same figures as CSV: `curves.csv`, `budgets.csv`, `exits.csv`,
    /// `calibration.csv`, `overlap.csv`.
    #[arg(long, value_name = "DIR")]
    pub csv: Option<PathBuf>,
}

/// Runs `lab evaluate`.
///
/// # Errors
/// A [`LearnPolicyError`] that names what is at fault.
pub fn run(args: &EvaluateArgs, out: &mut dyn Write) -> Result<(), LearnPolicyError> {
    let study = study(&args.study)?;
    print(&study, out)?;
    if let Some(folder) = &args.csv {
        write_csv(&study, folder)?;
        writeln!(out, "CSV files: {}", folder.display())?;
    }
    Ok(())
}

pub(crate) fn times(ratio: Option<f64>) -> String {
    ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}×"))
}

fn print(study: &Study, out: &mut dyn Write) -> io::Result<()> {
    match study.folds {
        Some(folds) => writeln!(out, "{} images, {folds} parts in turn", study.judged_on)?,
        None => writeln!(
            out,
            "learned from {} images, judged on {} others",
            study.learned_from, study.judged_on
        )?,
    }
    writeln!(out, "\nNetworks alone")?;
    let mut networks = table(&["network", "", "top-1", "mean ms", "of the largest"]);
    for (index, curve) in study.curves[..study.networks.len()].iter().enumerate() {
        let point = &curve.judged[0];
        networks.add_row(row(
            &study.networks[index],
            [
                study.letters[index].clone(),
                format!("{:.2} %", 100.0 * point.accuracy),
                format!("{:.3}", 1e3 * point.seconds),
                percent(point.seconds / study.largest.mean_seconds()),
            ],
        ));
    }
    writeln!(out, "{networks}")?;

    writeln!(
        out,
        "\nSpeed-up of learned policies over the largest network, by points of loss (95 % interval; by chance)"
    )?;
    let mut speed_ups = table(&[
        "topology",
        "0",
        "1",
        "2",
        "5",
        "offloaded at 0",
        "best, points over the largest",
    ]);
    for speed_up in &study.speed_ups {
        let cells = speed_up
            .learned
            .iter()
            .zip(&speed_up.random)
            .map(|(learned, random)| match learned {
                Some((ratio, interval)) => format!(
                    "{ratio:.2}× ({:.2}–{:.2}; {})",
                    interval.low,
                    interval.high,
                    times(*random)
                ),
                None => "–".to_owned(),
            });
        let (gain, interval) = speed_up.best_gain;
        let last = [
            match speed_up.zero_loss_offload {
                Some((rate, interval)) => format!(
                    "{} ({} to {})",
                    percent(rate),
                    percent(interval.low),
                    percent(interval.high)
                ),
                None => "–".to_owned(),
            },
            format!("{gain:+.2} ({:+.2} to {:+.2})", interval.low, interval.high),
        ];
        speed_ups.add_row(row(&speed_up.topology, cells.chain(last)));
    }
    writeln!(out, "{speed_ups}")?;

    writeln!(
        out,
        "\nLearned policies beside tuned thresholds, over all mean times up to the largest network's"
    )?;
    let mut comparisons = table(&[
        "topology",
        "thresholds",
        "budgets",
        "learned better for sure",
        "thresholds better for sure",
        "largest sure gain, points",
        "learned above soft oracle, points",
        "above free oracle",
        "thresholds above free oracle",
    ]);
    for comparison in &study.comparisons {
        let (better, worse) = comparison.verdicts();
        let gain = comparison
            .budgets
            .iter()
            .map(|b| b.gain.0)
            .fold(f64::MIN, f64::max);
        comparisons.add_row(row(
            &comparison.topology,
            [
                comparison.rival.as_str().to_owned(),
                comparison.budgets.len().to_string(),
                better.to_string(),
                worse.to_string(),
                if gain > 0.0 {
                    format!("{:.2}", 100.0 * gain)
                } else {
                    "–".to_owned()
                },
                format!("{:+.2}", comparison.above_soft_oracle),
                format!("{:+.2}", comparison.above_free_oracle),
                format!("{:+.2}", comparison.rival_above_free_oracle),
            ],
        ));
    }
    writeln!(out, "{comparisons}")?;

    if !study.exits.is_empty() {
        writeln!(
            out,
            "\nEarly exits: speed-up over the whole network, by points of loss, learned (one threshold; by chance)"
        )?;
        let mut exits = table(&["network", "0", "1", "2", "5"]);
        for table in &study.exits {
            let cells = table.rows.iter();
            exits.add_row(row(
                &table.network,
                cells.map(|row| {
                    let [learned, one, random] =
                        [row.learned, row.one_threshold, row.random].map(times);
                    format!("{learned} ({one}; {random})")
                }),
            ));
        }
        writeln!(out, "{exits}")?;
    }

    if !study.shares.is_empty() {
        writeln!(
            out,
            "\nWhere examples and time go on the {}",
            study.full_tree
        )?;
        let mut header = vec!["budget".to_owned(), "top-1".to_owned()];
        for letter in &study.letters {
            header.push(format!("answered by {letter}"));
        }
        for letter in &study.letters {
            header.push(format!("time in {letter}"));
        }
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut shares = table(&header);
        for share in &study.shares {
            let cells = [percent(share.accuracy)].into_iter();
            let answered = share.answered.iter().copied().map(percent);
            let time = share.time.iter().copied().map(percent);
            shares.add_row(row(
                percent(share.budget),
                cells.chain(answered).chain(time),
            ));
        }
        writeln!(out, "{shares}")?;
    }

    writeln!(out, "\nRight about the same images")?;
    let mut overlap = table(&["right", "images"]);
    for (set, &count) in study.overlap.right.iter().enumerate().rev() {
        overlap.add_row(row(set_name(set, &study.letters), [count.to_string()]));
    }
    writeln!(out, "{overlap}")?;

    writeln!(out, "\nCalibration")?;
    let mut calibration = table(&["network", "temperature", "error before", "after"]);
    for network in &study.calibrations {
        calibration.add_row(row(
            &network.network,
            [
                format!("{:.3}", network.temperature),
                percent(network.error_before),
                percent(network.error_after),
            ],
        ));
    }
    writeln!(out, "{calibration}")
}

/// The networks of a set, by their letters.
pub(crate) fn set_name(set: usize, letters: &[String]) -> String {
    let here = letters
        .iter()
        .enumerate()
        .filter(|(bit, _)| set >> bit & 1 == 1);
    let here: Vec<&str> = here.map(|(_, letter)| letter.as_str()).collect();
    match here.len() {
        0 => "none".to_owned(),
        count if count == letters.len() => "all".to_owned(),
        _ => format!("only {}", here.join(" and ")),
    }
}

fn write_csv(study: &Study, folder: &Path) -> Result<(), LearnPolicyError> {
    let failed = |path: &Path, source: io::Error| LearnPolicyError::Write {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    let write = |name: &str, header: &[&str], rows: Vec<Vec<String>>| {
        let path = folder.join(name);
        let mut writer = csv::Writer::from_path(&path)
            .map_err(|error| failed(&path, io::Error::other(error)))?;
        let records = std::iter::once(header.iter().map(|&h| h.to_owned()).collect()).chain(rows);
        for record in records {
            writer
                .write_record(&record)
                .map_err(|error| failed(&path, io::Error::other(error)))?;
        }
        writer.flush().map_err(|source| failed(&path, source))
    };
    let curves = study.curves.iter().flat_map(|curve| {
        curve.judged.iter().map(|point| {
            vec![
                curve.topology.clone(),
                curve.kind.as_str().to_owned(),
                point.price.per_second.to_string(),
                point.seconds.to_string(),
                point.accuracy.to_string(),
                point.bytes.to_string(),
                point.offload_rate.to_string(),
            ]
        })
    });
    let header = [
        "topology",
        "policy",
        "price_per_second",
        "seconds",
        "accuracy",
        "bytes",
        "offload_rate",
    ];
    write("curves.csv", &header, curves.collect())?;
    let budgets = study.comparisons.iter().flat_map(|comparison| {
        comparison.budgets.iter().map(|budget| {
            vec![
                comparison.topology.clone(),
                comparison.rival.as_str().to_owned(),
                budget.seconds.to_string(),
                budget.learned.to_string(),
                budget.threshold.to_string(),
                budget.gain.0.to_string(),
                budget.gain.1.to_string(),
            ]
        })
    });
    let header = [
        "topology",
        "thresholds",
        "seconds",
        "learned_loss",
        "threshold_loss",
        "gain_low",
        "gain_high",
    ];
    write("budgets.csv", &header, budgets.collect())?;
    let exits = study.exits.iter().flat_map(|table| {
        table.rows.iter().zip(LOSSES).map(|(row, loss)| {
            let word = |ratio: Option<f64>| ratio.map_or(String::new(), |r| r.to_string());
            vec![
                table.network.clone(),
                loss.to_string(),
                word(row.learned),
                word(row.one_threshold),
                word(row.random),
            ]
        })
    });
    let header = [
        "network",
        "points_of_loss",
        "learned_speed_up",
        "one_threshold_speed_up",
        "random_speed_up",
    ];
    write("exits.csv", &header, exits.collect())?;
    let calibration = study.calibrations.iter().flat_map(|network| {
        let bins = network.before.iter().map(|bin| ("before", bin));
        let bins = bins.chain(network.after.iter().map(|bin| ("after", bin)));
        bins.filter(|(_, bin)| bin.count > 0).map(|(when, bin)| {
            vec![
                network.network.clone(),
                network.temperature.to_string(),
                when.to_owned(),
                bin.count.to_string(),
                bin.confidence.to_string(),
                bin.accuracy.to_string(),
            ]
        })
    });
    let header = [
        "network",
        "temperature",
        "scaling",
        "images",
        "confidence",
        "accuracy",
    ];
    write("calibration.csv", &header, calibration.collect())?;
    let overlap = study.overlap.right.iter().enumerate();
    let overlap = overlap.map(|(set, n)| vec![set_name(set, &study.letters), n.to_string()]);
    write("overlap.csv", &["right", "images"], overlap.collect())
}
