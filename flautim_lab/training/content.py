"""What is in a message: the one record of each kind, and all of them as bytes.

``RecordDict.array_records`` and its like make a dict anew at each look, with checks of what is in
there already: for a thousand clients those take longer than their training.
"""

from __future__ import annotations

from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

__all__ = ["arrays_in", "config_in", "metrics_in", "named_config", "pack", "unpack"]

Record = TypeVar("Record", ArrayRecord, ConfigRecord, MetricRecord)


def arrays_in(content: RecordDict) -> ArrayRecord:
    """Return the arrays of a content."""
    return _first(content, ArrayRecord)


def config_in(content: RecordDict) -> ConfigRecord:
    """Return the config of a content."""
    return _first(content, ConfigRecord)


def metrics_in(content: RecordDict) -> MetricRecord:
    """Return the metrics of a content."""
    return _first(content, MetricRecord)


def named_config(message: Message, name: str) -> ConfigRecord | None:
    """Return a config by its name, None if there is none."""
    record = message.content.get(name)
    return record if isinstance(record, ConfigRecord) else None


def pack(content: RecordDict) -> bytes:
    """Return records as bytes: one object on the wire where Flower makes one per array."""
    data: bytes = recorddict_to_proto(content).SerializeToString()
    return data


def unpack(data: bytes) -> RecordDict:
    """Return the records of :func:`pack`."""
    return recorddict_from_proto(RecordDictProto.FromString(data))


def _first(content: RecordDict, kind: type[Record]) -> Record:
    return next(record for record in content.values() if isinstance(record, kind))
