// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tables of text.

use std::fmt::Write as _;

/// Prints lines of as many cells each, as columns.
pub fn print(lines: &[Vec<String>]) {
    print!("{}", text(lines));
}

/// The same as a text.
pub fn text(lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(width).collect();
    for line in lines {
        let cells: Vec<_> = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}
