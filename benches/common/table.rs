//! Markdown tables.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

/// Creates a table whose first column is text and whose others are numbers.
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
