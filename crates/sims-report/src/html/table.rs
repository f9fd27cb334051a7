//! Tables with headers that screen readers can follow.

use maud::{Markup, html};

use crate::data_table::{DataTable, Values};

/// Wraps a table so that it scrolls by itself, by keyboard as well, where it is wider than the page.
pub(super) fn scroll(label: &str, table: &Markup) -> Markup {
    html! {
        div.scroll role="region" aria-label=(label) tabindex="0" { (table) }
    }
}

/// Lays a whole table out, a row a row, folded away behind its caption.
pub(super) fn folded(table: &DataTable, caption: &str) -> Markup {
    let rows = if table.rows == 1 { "row" } else { "rows" };
    html! {
        details {
            summary { (caption) " · " (table.rows) " " (rows) }
            (scroll(caption, &plain(table, caption)))
        }
    }
}

/// Lays a whole table out, a row a row.
fn plain(table: &DataTable, caption: &str) -> Markup {
    let numeric: Vec<bool> = table
        .fields
        .iter()
        .map(|field| matches!(field.values, Values::Number(_) | Values::Count(_)))
        .collect();
    html! {
        table {
            caption.quiet { (caption) }
            thead {
                tr {
                    @for (field, numeric) in table.fields.iter().zip(&numeric) {
                        th scope="col" class=[numeric.then_some("n")] { (field.name.replace('_', " ")) }
                    }
                }
            }
            tbody {
                @for row in 0..table.rows {
                    tr {
                        @for (cell, numeric) in table.row(row).iter().zip(&numeric) {
                            td class=[numeric.then_some("n")] { (cell) }
                        }
                    }
                }
            }
        }
    }
}

/// A bar that shows a share of the largest, beside a number that says the same.
pub(super) fn bar(share: f64) -> Markup {
    let width = format!("width:{:.1}%", 100.0 * share.clamp(0.0, 1.0));
    html! { span.bar aria-hidden="true" { span style=(width) {} } }
}

/// Names a round; 0 is what runs once.
pub(super) fn round_name(round: u32) -> String {
    match round {
        0 => "once".to_owned(),
        n => format!("round {n}"),
    }
}
