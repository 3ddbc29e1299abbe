//! Messages to domain types at the border.

use laneguard_proto::duration::from_wire;
use laneguard_proto::policy::StaleAction;
use laneguard_proto::subject::{Kind, Token, tokens};
use laneguard_proto::v1;

use crate::commands::{Command, Wanted};
use crate::policies::Slot;

/// The class that a message on a subject is about, if subject and message agree.
///
/// # Errors
/// Says what does not agree.
pub fn slot(
    subject: &str,
    kind: Kind,
    cluster: &Token,
    policy: &str,
    class: &str,
) -> Result<Slot, String> {
    if tokens(subject, kind).as_deref() != Some(&[cluster.as_str(), policy, class]) {
        return Err("the message is about another class than its subject".into());
    }
    let token = |text: &str| text.parse::<Token>().map_err(|e| e.to_string());
    Ok(Slot {
        policy: token(policy)?,
        class: token(class)?,
    })
}

/// A validated command.
///
/// # Errors
/// Says what is missing, which validation has ruled out.
pub fn command(slot: Slot, message: v1::Command) -> Result<Command, String> {
    let wanted = match (message.restore, message.limit_bps) {
        (true, _) => Wanted::Restore,
        (false, Some(bps)) => Wanted::Limit(bps),
        (false, None) => return Err("limit_bps is not set".into()),
    };
    let on_stale = match message.on_stale() {
        v1::command::OnStale::Protect => StaleAction::Protect,
        v1::command::OnStale::Release => StaleAction::Release,
        v1::command::OnStale::Hold | v1::command::OnStale::Unspecified => StaleAction::Hold,
    };
    Ok(Command {
        slot,
        term: message.term,
        sequence: message.sequence,
        wanted,
        nodes: message
            .nodes
            .into_iter()
            .filter_map(|n| Some((n.node, n.limit_bps?)))
            .collect(),
        valid_for: message
            .valid_for
            .as_ref()
            .and_then(from_wire)
            .ok_or("valid_for is not set")?,
        on_stale,
    })
}
