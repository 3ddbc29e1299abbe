//! Errors that decide the exit code.

/// A setting that cannot be used. A process that ends with it exits with 64 and this one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    /// The setting's name, as the operator wrote it (flag or environment variable).
    pub setting: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ConfigError {
    /// Names the setting and the reason.
    pub fn new(setting: impl Into<String>, reason: impl ToString) -> Self {
        Self {
            setting: setting.into(),
            reason: reason.to_string(),
        }
    }
}
