//! A table in Markdown.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

/// The first column is text, the others are figures.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(ASCII_MARKDOWN)
        .set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
