//! What the measurements of all images add up to, and how it is shown.

use std::time::Duration;

use comfy_table::Table;
use outpost_cascade::{EncoderProfile, Measured, Original};
use outpost_exit_policy::bootstrap::interval;
use outpost_runtime::Encoder;

use super::measure::{Form, Measurement};
use crate::{
    percentile::nearest_rank,
    table::{percent, row, table as empty_table},
};

/// Draws of the bootstrap, and the seed of their order.
const RESAMPLES: usize = 2000;
const SEED: u64 = 7;

/// The images as they were read.
pub(super) fn original(measured: &[Measurement]) -> Original {
    let forms: Vec<Form> = measured.iter().map(|one| one.original).collect();
    Original {
        bytes: mean(forms.iter().map(|form| form.bytes as f64)).round(),
        top1: share_right(&forms),
    }
}

/// Each encoder, over all images.
pub(super) fn encoders(encoders: &[Encoder], measured: &[Measurement]) -> Vec<Measured<Encoder>> {
    let milliseconds = |time: Duration| time.as_micros() as f64 / 1e3;
    let median = |mut times: Vec<f64>| nearest_rank(&mut times, 50).unwrap_or_default();
    let resize_ms = median(
        measured
            .iter()
            .map(|one| milliseconds(one.resizing))
            .collect(),
    );
    let of_one = |(number, &encoder): (usize, &Encoder)| {
        let encoded = measured.iter().map(|one| one.encoded[number]);
        let (forms, times): (Vec<Form>, Vec<Duration>) = encoded.unzip();
        let lost: Vec<f64> = measured
            .iter()
            .zip(&forms)
            .map(|(one, form)| 100.0 * (right(one.original) - right(*form)))
            .collect();
        let ends = interval(measured.len(), RESAMPLES, SEED, |drawn| {
            mean(drawn.iter().map(|&image| lost[image as usize]))
        });
        Measured {
            encoder,
            bytes: mean(forms.iter().map(|form| form.bytes as f64)).round(),
            top1: share_right(&forms),
            // Of whole numbers: a difference of shares would be a hair over a bound that it meets.
            lost_points: mean(lost.iter().copied()),
            lost_points_low: ends.low,
            lost_points_high: ends.high,
            resize_ms,
            encode_ms: median(times.into_iter().map(milliseconds).collect()),
        }
    };
    encoders.iter().enumerate().map(of_one).collect()
}

fn right(form: Form) -> f64 {
    f64::from(u8::from(form.is_right))
}

fn share_right(forms: &[Form]) -> f64 {
    mean(forms.iter().map(|form| right(*form)))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// For people.
pub(super) fn table(profile: &EncoderProfile<Encoder>) -> Table {
    let mut table = empty_table(&[
        "sent as",
        "bytes",
        "top-1",
        "points lost",
        "95 % interval",
        "resize ms",
        "encode ms",
    ]);
    let original = &profile.original;
    table.add_row(row(
        "original",
        [format!("{:.0}", original.bytes), percent(original.top1)]
            .into_iter()
            .chain(["–"; 4].map(str::to_owned)),
    ));
    for one in &profile.encoders {
        table.add_row(row(
            one.encoder.to_string(),
            [
                format!("{:.0}", one.bytes),
                percent(one.top1),
                format!("{:.1}", one.lost_points),
                format!("{:.1} to {:.1}", one.lost_points_low, one.lost_points_high),
                format!("{:.1}", one.resize_ms),
                format!("{:.1}", one.encode_ms),
            ],
        ));
    }
    table
}

/// For programs.
pub(super) fn csv(profile: &EncoderProfile<Encoder>) -> String {
    let mut text =
        "encoder,bytes,top1,lost_points,lost_points_low,lost_points_high,resize_ms,encode_ms\n"
            .to_owned();
    text += &format!(
        "original,{},{},0,0,0,0,0\n",
        profile.original.bytes, profile.original.top1
    );
    for one in &profile.encoders {
        text += &format!(
            "{},{},{},{},{},{},{},{}\n",
            one.encoder,
            one.bytes,
            one.top1,
            one.lost_points,
            one.lost_points_low,
            one.lost_points_high,
            one.resize_ms,
            one.encode_ms
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_of_a_hundred_is_a_point_and_not_a_hair_more() {
        let form = |is_right| Form {
            bytes: 100,
            is_right,
        };
        let time = Duration::from_millis(1);
        // Eight are wrong as they were read, and nine encoded.
        let measured = (0..100).map(|image| Measurement {
            original: form(image >= 8),
            resizing: time,
            encoded: vec![(form(image >= 9), time)],
        });
        let encoder: Encoder = "jpeg@75".parse().unwrap();
        let found = encoders(&[encoder], &measured.collect::<Vec<_>>());
        assert_eq!((found[0].top1, found[0].lost_points), (0.91, 1.0));
    }
}
