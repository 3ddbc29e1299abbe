//! Messages to bytes and back, in protobuf and canonical proto3 JSON, validated once.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};

use crate::header;
use crate::validate::{Invalid, Validate};

/// The greatest payload that is read; a larger one is refused unread. Below NATS' default limit of 1 MiB.
pub const MOST_BYTES: usize = 512 * 1024;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(crate::v1::DESCRIPTORS).ok());

/// How a payload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Protobuf's binary form.
    #[default]
    Protobuf,
    /// Canonical proto3 JSON: lowerCamelCase names, 64-bit integers as text, RFC 3339 times.
    Json,
}

impl Encoding {
    /// The value of the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => header::PROTOBUF,
            Self::Json => header::JSON,
        }
    }

    /// From the header `Content-Type`, parameters ignored; without one, protobuf.
    ///
    /// # Errors
    /// When the type is neither of the two.
    pub fn from_content_type(content_type: Option<&str>) -> Result<Self, DecodeError> {
        let Some(text) = content_type else {
            return Ok(Self::Protobuf);
        };
        match text.split(';').next().unwrap_or_default().trim() {
            header::PROTOBUF => Ok(Self::Protobuf),
            header::JSON => Ok(Self::Json),
            other => Err(DecodeError::ContentType(other.chars().take(80).collect())),
        }
    }
}

impl std::str::FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "protobuf" => Ok(Self::Protobuf),
            "json" => Ok(Self::Json),
            other => Err(format!("`{other}` is neither protobuf nor json")),
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Protobuf => "protobuf",
            Self::Json => "json",
        })
    }
}

/// Why a payload was refused.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is larger than [`MOST_BYTES`].
    #[error("it has {0} bytes, the most is {MOST_BYTES}")]
    TooLarge(usize),
    /// Its `Content-Type` is unknown.
    #[error("content type `{0}` is neither {p} nor {j}", p = header::PROTOBUF, j = header::JSON)]
    ContentType(String),
    /// It is no protobuf message of the expected type.
    #[error("it is not valid protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// It is no JSON of the expected type.
    #[error("it is not valid proto3 JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A field's value is missing or out of range.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl DecodeError {
    /// A word from a closed set, for metric labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::ContentType(_) => "content_type",
            Self::Protobuf(_) | Self::Json(_) => "malformed",
            Self::Invalid(_) => "out_of_range",
        }
    }
}

/// A message of the package that can be encoded and decoded.
pub trait WireMessage: Message + Default + Validate {
    /// The message's full name.
    const FULL_NAME: &'static str;
}

macro_rules! wire_messages {
    ($($name:ident),*) => {
        $(impl WireMessage for crate::v1::$name {
            const FULL_NAME: &'static str = concat!("laneguard.v1.", stringify!($name));
        })*
    };
}
wire_messages!(Sample, Decision, Command, Outcome);

fn descriptor<M: WireMessage>() -> Option<MessageDescriptor> {
    POOL.as_ref()?.get_message_by_name(M::FULL_NAME)
}

/// Why a message of ours could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be written as JSON: {reason}")]
pub struct EncodeError {
    name: &'static str,
    reason: String,
}

/// Writes a message.
///
/// # Errors
/// When the JSON form cannot be made; the binary form always can.
pub fn encode<M: WireMessage>(message: &M, encoding: Encoding) -> Result<Vec<u8>, EncodeError> {
    match encoding {
        Encoding::Protobuf => Ok(message.encode_to_vec()),
        Encoding::Json => to_json(message).map(String::into_bytes),
    }
}

/// Writes a message as canonical proto3 JSON.
///
/// # Errors
/// When reflection fails, which would be a defect of the committed descriptors.
pub fn to_json<M: WireMessage>(message: &M) -> Result<String, EncodeError> {
    let fail = |reason: String| EncodeError {
        name: M::FULL_NAME,
        reason,
    };
    let descriptor = descriptor::<M>().ok_or_else(|| fail("its descriptor is missing".into()))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic
        .transcode_from(message)
        .map_err(|e| fail(e.to_string()))?;
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut out);
    dynamic
        .serialize_with_options(&mut serializer, &SerializeOptions::new())
        .map_err(|e| fail(e.to_string()))?;
    String::from_utf8(out).map_err(|e| fail(e.to_string()))
}

/// Reads and validates a message. Unknown fields are ignored.
///
/// # Errors
/// When the payload is too large, malformed, or a value is missing or out of range.
pub fn decode<M: WireMessage>(
    payload: &[u8],
    content_type: Option<&str>,
) -> Result<M, DecodeError> {
    if payload.len() > MOST_BYTES {
        return Err(DecodeError::TooLarge(payload.len()));
    }
    let message = match Encoding::from_content_type(content_type)? {
        Encoding::Protobuf => M::decode(payload)?,
        Encoding::Json => from_json(payload)?,
    };
    message.validate()?;
    Ok(message)
}

fn from_json<M: WireMessage>(payload: &[u8]) -> Result<M, DecodeError> {
    let descriptor = descriptor::<M>().ok_or_else(|| {
        <serde_json::Error as serde::de::Error>::custom("the message's descriptor is missing")
    })?;
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let dynamic = DynamicMessage::deserialize_with_options(
        descriptor,
        &mut deserializer,
        &DeserializeOptions::new().deny_unknown_fields(false),
    )?;
    deserializer.end()?;
    Ok(dynamic.transcode_to()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duration::timestamp_from_ms;
    use crate::v1::{Command, Decision, LimitChange, Sample, Signals, sample::Quality};

    fn sample() -> Sample {
        Sample {
            cluster: "default".into(),
            policy: "factory_floor".into(),
            workload: "factory_robot".into(),
            sequence: u64::MAX - 1,
            observed_at: Some(timestamp_from_ms(1_764_000_000_500)),
            window_end: Some(timestamp_from_ms(1_764_000_000_000)),
            quality: Quality::Good.into(),
            raw: Some(Signals {
                p95_ms: Some(8.7),
                jitter_ms: Some(2.9),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn both_encodings_give_the_message_back() {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let bytes = encode(&sample(), encoding).unwrap();
            let back: Sample = decode(&bytes, Some(encoding.content_type())).unwrap();
            assert_eq!(back, sample(), "{encoding}");
        }
    }

    #[test]
    fn json_is_canonical() {
        let json: serde_json::Value = serde_json::from_str(&to_json(&sample()).unwrap()).unwrap();
        assert_eq!(json["sequence"], "18446744073709551614");
        assert_eq!(json["quality"], "GOOD");
        assert_eq!(json["observedAt"], "2025-11-24T16:00:00.500Z");
        assert_eq!(json["raw"]["p95Ms"], 8.7);
        assert!(json["raw"].get("p99Ms").is_none(), "unset stays unset");
    }

    #[test]
    fn unknown_fields_are_ignored_in_both_encodings() {
        let mut bytes = encode(&sample(), Encoding::Protobuf).unwrap();
        bytes.extend([0xf8, 0x3f, 0x01]); // field 1023, varint 1
        assert_eq!(
            decode::<Sample>(&bytes, Some(header::PROTOBUF)).unwrap(),
            sample()
        );
        let json = to_json(&sample())
            .unwrap()
            .replacen('{', "{\"future\":1,", 1);
        assert_eq!(
            decode::<Sample>(json.as_bytes(), Some("application/json; charset=utf-8")).unwrap(),
            sample()
        );
    }

    #[test]
    fn garbage_is_refused_with_its_kind() {
        let decode = |bytes: &[u8], kind| decode::<Command>(bytes, kind).unwrap_err().kind();
        assert_eq!(decode(b"\xff\xff\xff", None), "malformed");
        assert_eq!(decode(b"{", Some(header::JSON)), "malformed");
        assert_eq!(decode(b"", Some("text/plain")), "content_type");
        assert_eq!(decode(b"", None), "out_of_range");
        assert_eq!(decode(&vec![0; MOST_BYTES + 1], None), "too_large");
    }

    #[test]
    fn nan_never_gets_in() {
        let mut bad = sample();
        bad.raw = Some(Signals {
            p95_ms: Some(f64::NAN),
            ..Default::default()
        });
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            let bytes = encode(&bad, encoding).unwrap();
            let refused = decode::<Sample>(&bytes, Some(encoding.content_type()));
            assert!(refused.is_err(), "{encoding}");
        }
    }

    #[test]
    fn a_decision_keeps_state_and_parameters_in_json() {
        let decision = Decision {
            cluster: "default".into(),
            policy: "default".into(),
            term: 1,
            sequence: 1,
            decided_at: Some(timestamp_from_ms(1)),
            state: crate::structure::from_json(&serde_json::json!({"limit": 1e8, "n": [1, 2.5]})),
            limits: vec![LimitChange {
                class: "bulk".into(),
                before_bps: Some(1e9),
                after_bps: Some(9.5e8),
            }],
            ..Default::default()
        };
        let bytes = encode(&decision, Encoding::Json).unwrap();
        let back: Decision = decode(&bytes, Some(header::JSON)).unwrap();
        assert_eq!(back, decision);
    }
}
