//! The report as one HTML page that needs nothing else: no network, no file beside it.
//!
//! `page` is the frame with style and script, `figure` a chart with its words, `table` a table, and
//! `sections` has one file a subject. All text of a run goes through maud, which escapes it.

mod figure;
mod page;
mod sections;
mod table;

use crate::ReportError;
use crate::parts::Parts;
use crate::run::Run;

/// Renders the page: the same run always gives the same bytes.
///
/// # Errors
/// If a chart cannot be drawn.
pub fn render(run: &Run, parts: &Parts) -> Result<String, ReportError> {
    let sections = [
        sections::curves::section(run, parts)?,
        sections::settings::section(parts)?,
        sections::contrast::section(parts)?,
        sections::judge::section(parts)?,
        sections::gates::effects(parts),
        sections::gates::decisions(run, parts),
        sections::answers::section(run, parts),
        sections::cost::section(parts),
        sections::lineage::section(run, parts),
    ];
    let page = page::page(
        &run.name,
        &sections::headline::header(run, parts),
        &sections,
    );
    Ok(page.into_string())
}
