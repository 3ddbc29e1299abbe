//! Policies in the bucket: apply, get, list, delete.

use std::hash::{BuildHasher, RandomState};
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use laneguard_proto::policy::{Entry, Origin, QosPolicy};
use laneguard_proto::storage::POLICIES;
use laneguard_proto::subject::Token;
use laneguard_runtime::bus::{Bucket, Bus, Change, StoreError};
use laneguard_runtime::clock;

use crate::args::{Format, Named, Policy};
use crate::{brake, file, name, object, output, yaml};

/// Reads a file, or standard input for `-`.
///
/// # Errors
/// Names the file.
fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    }
    Ok(text)
}

/// Does what is asked. `policies`: those of the file to apply, read before NATS is needed.
///
/// # Errors
/// Says what was refused and why.
pub(crate) async fn run(
    bus: &Bus,
    command: &Policy,
    policies: Vec<QosPolicy>,
) -> anyhow::Result<()> {
    match command {
        Policy::Apply { .. } => apply(bus, policies).await,
        Policy::Get { named, output } => {
            let entry = find(bus, named).await?.0;
            show(*output, &[entry], false)
        }
        Policy::List { output } => show(*output, &list(bus).await?, true),
        Policy::Delete(named) => delete(bus, named).await,
    }
}

fn key(bus: &Bus, token: &Token) -> String {
    format!("{}.{token}", bus.cluster())
}

async fn apply(bus: &Bus, policies: Vec<QosPolicy>) -> anyhow::Result<()> {
    let bucket = bus.bucket(POLICIES);
    for policy in policies {
        let shown = format!("{}/{}", policy.metadata.namespace, policy.metadata.name);
        let done = put(bus, &bucket, policy)
            .await
            .with_context(|| shown.clone())?;
        output::line(&format!("{shown} {done}"))?;
    }
    Ok(())
}

/// Writes one policy if it differs; again when somebody else wrote in between.
async fn put(bus: &Bus, bucket: &Bucket, policy: QosPolicy) -> anyhow::Result<String> {
    let mut entry = Entry {
        origin: Origin::Lanectl,
        namespace: policy.metadata.namespace,
        name: policy.metadata.name,
        uid: new_uid(),
        generation: 1,
        spec: policy.spec,
    };
    let key = key(bus, &entry.token()?);
    for _ in 0..5 {
        let stored = bucket.get(&key).await?;
        let (written, word) = match &stored {
            None => (
                bucket.create(&key, serde_json::to_vec(&entry)?).await,
                "created",
            ),
            Some(value) => {
                // an entry that cannot be read is replaced
                if let Ok(before) = Entry::from_json(&value.bytes) {
                    refuse_foreign(&before)?;
                    if before.spec == entry.spec {
                        return Ok(format!("unchanged (generation {})", before.generation));
                    }
                    entry.uid = before.uid;
                    entry.generation = before.generation + 1;
                }
                let bytes = serde_json::to_vec(&entry)?;
                (
                    bucket.update(&key, bytes, value.revision).await,
                    "configured",
                )
            }
        };
        match written {
            Ok(_) => return Ok(format!("{word} (generation {})", entry.generation)),
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("others keep changing it, nothing was written")
}

fn refuse_foreign(entry: &Entry) -> anyhow::Result<()> {
    match entry.origin {
        Origin::Kubernetes => anyhow::bail!(
            "it mirrors the QosPolicy resource {}/{} in Kubernetes: change that one instead",
            entry.namespace,
            entry.name
        ),
        Origin::Lanectl | Origin::Environment => Ok(()),
    }
}

/// An id for the life of an object.
fn new_uid() -> String {
    let random = RandomState::new().hash_one(clock::since_epoch());
    format!("{:x}-{random:016x}", clock::unix_ms())
}

/// The policy and its revision.
async fn find(bus: &Bus, named: &Named) -> anyhow::Result<(Entry, u64)> {
    let token = name::token(&named.policy, named.namespace.as_deref())?;
    let value = bus.bucket(POLICIES).get(&key(bus, &token)).await?;
    let value = value.with_context(|| not_found(bus, &token))?;
    let entry = Entry::from_json(&value.bytes)
        .with_context(|| format!("{} cannot be read", name::shown(token.as_str())))?;
    Ok((entry, value.revision))
}

/// Says that there is no such policy.
pub(crate) fn not_found(bus: &Bus, token: &Token) -> String {
    format!(
        "no policy {} in cluster {}",
        name::shown(token.as_str()),
        bus.cluster()
    )
}

/// Whether there is such a policy.
///
/// # Errors
/// When NATS does not answer.
pub(crate) async fn exists(bus: &Bus, token: &Token) -> anyhow::Result<bool> {
    let value = bus.bucket(POLICIES).get(&key(bus, token)).await?;
    Ok(value.is_some())
}

async fn list(bus: &Bus) -> anyhow::Result<Vec<Entry>> {
    let mut watch = bus.bucket(POLICIES).watch(&format!("{}.*", bus.cluster()));
    let mut entries = Vec::new();
    loop {
        match watch.next().await.context("NATS is gone")? {
            Change::Put { key, bytes, .. } => match Entry::from_json(&bytes) {
                Ok(entry) => entries.push(entry),
                Err(error) => eprintln!("warning: {key} cannot be read: {error}"),
            },
            Change::Deleted { .. } => {}
            Change::Synced { .. } => break,
        }
    }
    entries.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(entries)
}

fn show(format: Format, entries: &[Entry], many: bool) -> anyhow::Result<()> {
    if format == Format::Table {
        return output::text(&object::table(entries));
    }
    let objects = entries
        .iter()
        .map(object::object)
        .collect::<anyhow::Result<Vec<_>>>()?;
    if format == Format::Yaml {
        let documents: Vec<String> = objects.iter().map(yaml::document).collect();
        return output::text(&documents.join("---\n"));
    }
    let json = match objects.as_slice() {
        [object] if !many => serde_json::to_string_pretty(object)?,
        objects => serde_json::to_string_pretty(objects)?,
    };
    output::line(&json)
}

async fn delete(bus: &Bus, named: &Named) -> anyhow::Result<()> {
    let token = name::token(&named.policy, named.namespace.as_deref())?;
    let shown = name::shown(token.as_str());
    let bucket = bus.bucket(POLICIES);
    let key = key(bus, &token);
    let value = bucket.get(&key).await?;
    let value = value.with_context(|| not_found(bus, &token))?;
    // one that cannot be read may go
    if let Ok(entry) = Entry::from_json(&value.bytes) {
        refuse_foreign(&entry).with_context(|| shown.clone())?;
    }
    match bucket.delete_revision(&key, value.revision).await {
        Ok(()) => {
            // a release would otherwise wait for the next policy of this name
            brake::forget(bus, &token).await?;
            output::line(&format!("{shown} deleted"))
        }
        Err(StoreError::Conflict) => {
            anyhow::bail!("{shown}: somebody else changed it just now, nothing was deleted")
        }
        Err(error) => Err(error.into()),
    }
}

/// The policies of the file to apply.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn to_apply(command: &Policy) -> anyhow::Result<Vec<QosPolicy>> {
    match command {
        Policy::Apply { file } => {
            let text = read(file)?;
            file::policies(&text).with_context(|| file.display().to_string())
        }
        _ => Ok(Vec::new()),
    }
}
