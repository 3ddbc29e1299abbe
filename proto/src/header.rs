//! Names of the NATS headers on our messages, and the deterministic message ids.

use crate::v1::{Command, Decision, Outcome, Sample};

/// How the payload is encoded: one of [`PROTOBUF`] and [`JSON`].
pub const CONTENT_TYPE: &str = "Content-Type";
/// `Content-Type` of the protobuf binary form.
pub const PROTOBUF: &str = "application/protobuf";
/// `Content-Type` of canonical proto3 JSON.
pub const JSON: &str = "application/json";
/// JetStream's deduplication id.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The publish is refused unless the subject's last message has this stream sequence.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// On shadow decisions: the shadow's name in the policy.
pub const SHADOW: &str = "Laneguard-Shadow";

/// CloudEvents 1.0 attributes in binary mode, as the NATS protocol binding names them.
pub mod cloud_event {
    /// Version of the CloudEvents specification.
    pub const SPEC_VERSION: &str = "ce-specversion";
    /// Unique within the source.
    pub const ID: &str = "ce-id";
    /// Who published: `laneguard/<service>/<cluster>`.
    pub const SOURCE: &str = "ce-source";
    /// What kind of event: the protobuf message's full name.
    pub const TYPE: &str = "ce-type";
    /// When it was published, RFC 3339.
    pub const TIME: &str = "ce-time";
    /// As `Content-Type`.
    pub const DATA_CONTENT_TYPE: &str = "ce-datacontenttype";
}

/// A message that has a deterministic id: the same content published twice is stored once.
pub trait MessageId {
    /// The id for [`MESSAGE_ID`] and `ce-id`.
    fn message_id(&self) -> String;
}

impl MessageId for Sample {
    fn message_id(&self) -> String {
        format!(
            "sample.{}.{}.{}.{}",
            self.cluster, self.policy, self.workload, self.sequence
        )
    }
}

impl MessageId for Decision {
    /// Shadow decisions share the number of the decision they follow, so their name and time count.
    fn message_id(&self) -> String {
        let Self {
            cluster,
            policy,
            law,
            term,
            sequence,
            ..
        } = self;
        if self.shadow {
            let name = &self.shadow_name;
            let at = self.decided_at.unwrap_or_default();
            format!(
                "shadow.{cluster}.{policy}.{name}.{term}.{sequence}.{}.{}",
                at.seconds, at.nanos
            )
        } else {
            format!("decision.{cluster}.{policy}.{law}.{term}.{sequence}")
        }
    }
}

impl MessageId for Command {
    /// A renewal counts, or JetStream would swallow it as a duplicate of the command.
    fn message_id(&self) -> String {
        format!(
            "command.{}.{}.{}.{}.{}.{}",
            self.cluster, self.policy, self.class, self.term, self.sequence, self.renewal
        )
    }
}

impl MessageId for Outcome {
    /// Outcomes repeat as reconciliation goes on, so the time they were finished counts.
    fn message_id(&self) -> String {
        let finished = self.finished_at.unwrap_or_default();
        format!(
            "outcome.{}.{}.{}.{}.{}.{}.{}",
            self.cluster,
            self.policy,
            self.class,
            self.term,
            self.sequence,
            finished.seconds,
            finished.nanos
        )
    }
}
