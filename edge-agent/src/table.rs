//! Records as a table in the terminal, and what they add up to in a sentence.

use std::path::Path;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use outpost_cascade::Site;
use outpost_offload::Answered;

use crate::record::Record;

const HEADER: [&str; 10] = [
    "image", "answer", "sure", "by", "why", "device", "link", "cloud", "total ms", "sent",
];

/// Columns that hold numbers.
const NUMBERS: [usize; 6] = [2, 5, 6, 7, 8, 9];

/// A table of `records`, one line each.
pub fn render(records: &[Record]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(HEADER.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
    for record in records {
        match record {
            Record::Answered(answered) => table.add_row(row(answered)),
            Record::Failed { image, error, .. } => table.add_row(vec![
                Cell::new(file_name(image)),
                Cell::new(error).fg(Color::Red),
            ]),
        };
    }
    for column in NUMBERS {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

fn row(answered: &Answered) -> Vec<Cell> {
    let milliseconds = |value: f64| format!("{value:.1}");
    let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), milliseconds);
    let color = match answered.site {
        Site::Cloud => Color::Cyan,
        _ if answered.reason == "confident" => Color::Green,
        _ => Color::Yellow,
    };
    let why = match &answered.transport {
        Some(transport) => format!("{} ({transport})", answered.reason),
        None => answered.reason.clone(),
    };
    vec![
        Cell::new(file_name(&answered.image)),
        Cell::new(short(&answered.label)).add_attribute(Attribute::Bold),
        Cell::new(format!("{:.0} %", answered.confidence * 100.0)),
        Cell::new(answered.site).fg(color),
        Cell::new(why).fg(color),
        Cell::new(milliseconds(answered.device_ms)),
        Cell::new(optional(answered.link_ms)),
        Cell::new(optional(answered.cloud_ms)),
        Cell::new(milliseconds(answered.total_ms)),
        Cell::new(match answered.bytes_sent {
            0 => "–".to_owned(),
            bytes => kilobytes(bytes),
        }),
    ]
}

/// What `records` add up to.
pub fn summary(records: &[Record]) -> String {
    let answered: Vec<&Answered> = records
        .iter()
        .filter_map(|record| match record {
            Record::Answered(answered) => Some(&**answered),
            Record::Failed { .. } => None,
        })
        .collect();
    let by_cloud = answered.iter().filter(|a| a.site == Site::Cloud).count();
    let fallbacks = answered
        .iter()
        .filter(|a| a.reason.starts_with("fallback"))
        .count();
    let bytes = answered.iter().map(|a| a.bytes_sent).sum();
    let mut summary = format!(
        "{} images: {} answered by the device, {by_cloud} by the cloud, {} sent",
        records.len(),
        answered.len() - by_cloud,
        kilobytes(bytes),
    );
    if fallbacks > 0 {
        summary += &format!("; {fallbacks} fell back on the device");
    }
    let failed = records.len() - answered.len();
    if failed > 0 {
        summary += &format!("; {failed} without an answer");
    }
    summary
}

fn file_name(image: &str) -> String {
    Path::new(image).file_name().map_or_else(
        || image.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// The first of the names that ImageNet gives a class.
fn short(label: &str) -> &str {
    label.split(',').next().unwrap_or(label).trim()
}

fn kilobytes(bytes: u64) -> String {
    format!("{:.1} KB", bytes as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FailureCause;

    #[test]
    fn images_without_an_answer_show_their_reason() {
        let records = [Record::Failed {
            image: "folder/broken.jpg".into(),
            cause: FailureCause::NotAnImage,
            error: "the image is empty".into(),
        }];
        let table = render(&records);
        assert!(table.contains("broken.jpg") && table.contains("the image is empty"));
        assert!(summary(&records).ends_with("1 without an answer"));
    }
}
