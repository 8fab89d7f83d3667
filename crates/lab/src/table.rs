//! Tables on a terminal: words to the left, figures to the right.

use comfy_table::{Cell, CellAlignment, Row, Table, presets::UTF8_FULL_CONDENSED};

/// A table with this header and no rows.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// The first column as words, the others as figures.
pub(crate) fn row(words: impl Into<Cell>, figures: impl IntoIterator<Item = String>) -> Row {
    let mut row = Row::new();
    row.add_cell(words.into());
    for figure in figures {
        row.add_cell(Cell::new(figure).set_alignment(CellAlignment::Right));
    }
    row
}

/// A share as percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
