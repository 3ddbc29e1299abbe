//! Standard output. A reader that goes away, as `head` does, is no failure.

use std::io::{ErrorKind, Write as _};

/// The reader of standard output is gone: there is nobody left to print for.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output")]
pub(crate) struct Closed;

/// Prints a line at once.
///
/// # Errors
/// [`Closed`], or what standard output fails with.
pub(crate) fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints text at once.
///
/// # Errors
/// [`Closed`], or what standard output fails with.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}
