"""What the decider needs of NATS: the last message of a subject, a stored value, and publishing as the successor of what is known."""

import json
import os
import time

import nats
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from nats.js.errors import APIError, KeyNotFoundError, NotFoundError

import laneguard_pb2 as v1

CLUSTER = os.environ.get("CLUSTER", "default")
JSON, PROTOBUF = "application/json", "application/protobuf"
ENCODING = JSON if os.environ.get("MESSAGE_ENCODING") == "json" else PROTOBUF
KINDS = {"decision": v1.Decision, "command": v1.Command, "outcome": v1.Outcome}
YEAR_MS = 366 * 24 * 3600 * 1000
WRONG_LAST_SEQUENCE = 10071  # JetStream's error code


class Lost(Exception):
    """Somebody else decides for the policy."""


class Implausible(Exception):
    """A number that nothing could come after."""


UNREADABLE = (DecodeError, json_format.ParseError, Implausible)


def decode(kind, data, headers):
    """A message in either encoding; without a content type it is protobuf."""
    if (headers or {}).get("Content-Type", PROTOBUF).startswith(JSON):
        message = json_format.Parse(data, kind(), ignore_unknown_fields=True)
    else:
        message = kind.FromString(data)
    # terms and sequences begin at the Unix time in milliseconds: whoever wrote one far ahead would own the policy for ever
    numbers = [getattr(message, field, 0) for field in ("term", "sequence", "highest_term")]
    if max(numbers) > time.time() * 1000 + YEAR_MS:
        raise Implausible(f"term or sequence {max(numbers)}")
    return message


def number(message):
    """What orders decisions and commands. A shadow decision says nothing about who owns a policy."""
    return (0, 0, 0) if getattr(message, "shadow", False) else (message.term, message.sequence, getattr(message, "renewal", 0))


class Bus:
    def __init__(self, nc):
        self.nc, self.js, self.buckets = nc, nc.jetstream(), {}

    async def read(self, bucket, key):
        """A JSON value, read anew each time: there is no watch that could be lost."""
        if bucket not in self.buckets:
            self.buckets[bucket] = await self.js.key_value(bucket)
        try:
            value = (await self.buckets[bucket].get(key)).value
            return json.loads(value) if value else None  # what expired leaves an empty value
        except (KeyNotFoundError, json.JSONDecodeError):
            return None

    async def last(self, kind, end):
        """The last message on a subject and its stream sequence, 0 if there is none. Garbage counts as an empty message."""
        try:
            raw = await self.js.get_last_msg(f"LANEGUARD_{kind.upper()}S", f"laneguard.v1.{kind}.{end}")
            return decode(KINDS[kind], raw.data, raw.headers), raw.seq
        except NotFoundError:
            return KINDS[kind](), 0
        except UNREADABLE:
            return KINDS[kind](), raw.seq

    async def store(self, last, kind, end, message, id, trace):
        """Publishes a message as the successor of the last one we know, and waits until it is stored."""
        id = f"{kind}.{CLUSTER}.{message.policy}.{id}"
        data = json_format.MessageToJson(message, indent=None).encode() if ENCODING == JSON else message.SerializeToString()
        headers = {
            **trace, "Content-Type": ENCODING, "Nats-Msg-Id": id, "ce-id": id, "ce-specversion": "1.0",
            "ce-source": f"laneguard/python-decider/{CLUSTER}", "ce-type": message.DESCRIPTOR.full_name,
            "ce-time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "ce-datacontenttype": ENCODING}
        for _ in range(3):
            if not self.nc.is_connected:
                raise nats.errors.ConnectionClosedError  # it would be sent later, when it is no longer meant
            headers["Nats-Expected-Last-Subject-Sequence"] = str(last[kind, end])
            try:
                ack = await self.js.publish(f"laneguard.v1.{kind}.{end}", data, timeout=2, headers=headers)
                last[kind, end] = ack.seq
                return
            except APIError as error:
                if error.err_code != WRONG_LAST_SEQUENCE:
                    raise
            found, last[kind, end] = await self.last(kind, end)
            if number(found) >= number(message):
                raise Lost(f"a {kind} with term {found.term} is there")
            # the stream was wiped, or holds something older: publish over it
        raise Lost(f"others keep writing {kind}s")
