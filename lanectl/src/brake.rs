//! The hand brake: release a policy's pods, and resume.

use anyhow::Context as _;
use laneguard_proto::overrides::Override;
use laneguard_proto::storage::OVERRIDES;
use laneguard_proto::subject::Token;
use laneguard_runtime::bus::Bus;
use laneguard_runtime::clock;

use crate::{name, output, policy};

/// Restores what was found before us, until [`resume`].
///
/// # Errors
/// When there is no such policy, or NATS does not answer.
pub(crate) async fn release(bus: &Bus, token: &Token) -> anyhow::Result<()> {
    anyhow::ensure!(
        policy::exists(bus, token).await?,
        policy::not_found(bus, token)
    );
    let over = Override::Release {
        by: std::env::var("USER").unwrap_or_default(),
        since_ms: clock::unix_ms(),
    };
    bus.bucket(OVERRIDES)
        .put(&key(bus, token), serde_json::to_vec(&over)?)
        .await
        .context("nothing was released")?;
    output::line(&format!(
        "{} released: its pods get back what was found; `lanectl resume` enforces it again",
        name::shown(token.as_str())
    ))
}

/// Withdraws what an operator set against the policy's decisions.
///
/// # Errors
/// When nothing was set, or NATS does not answer.
pub(crate) async fn resume(bus: &Bus, token: &Token) -> anyhow::Result<()> {
    let shown = name::shown(token.as_str());
    let bucket = bus.bucket(OVERRIDES);
    let set = bucket.get(&key(bus, token)).await?;
    anyhow::ensure!(set.is_some(), "{shown} is not released");
    bucket
        .delete(&key(bus, token))
        .await
        .context("it stays released")?;
    output::line(&format!("{shown} resumed"))
}

/// Withdraws it without a word, if there is one: the policy is gone.
///
/// # Errors
/// When NATS does not answer.
pub(crate) async fn forget(bus: &Bus, token: &Token) -> anyhow::Result<()> {
    let bucket = bus.bucket(OVERRIDES);
    if bucket.get(&key(bus, token)).await?.is_some() {
        bucket.delete(&key(bus, token)).await?;
    }
    Ok(())
}

fn key(bus: &Bus, token: &Token) -> String {
    format!("{}.{token}", bus.cluster())
}
