//! The report of a comparison: one HTML file that needs nothing else, and the same numbers as JSON.
//!
//! It is made from the folder alone ([`collect`]), as often as one likes. Every number is one of [`crate::score`]; here they are only put beside
//! each other: the median of the runs, the least and the greatest, and every single one.

pub mod collect;
pub mod metric;
pub mod stats;

mod journey;
mod json;
mod loops;
mod multiples;
mod page;
mod plot;
mod strip;
mod table;
mod text;
mod tradeoff;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::summary::write_json;

/// Name of the report in the folder of a comparison.
pub const HTML_FILE: &str = "report.html";
/// Name of its numbers for programs.
pub const JSON_FILE: &str = "report.json";

/// Writes the report of the comparison in `out` into it and returns where it is.
///
/// # Errors
/// When `out` holds no runs, or a file cannot be read or written.
pub fn write(out: &Path) -> anyhow::Result<PathBuf> {
    let collected = collect::collect(out)?;
    write_json(&out.join(JSON_FILE), &json::report(&collected))?;
    let path = out.join(HTML_FILE);
    fs::write(&path, page::page(&collected))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
