"""What the messages of an Arrow IPC stream say about themselves, before anything is decoded.

A compressed buffer begins with the size that it claims to have when it is decompressed, and a
reader makes room for it before it looks further. So a few bytes could claim all of the memory. What
can be claimed is bounded here by what compression can achieve.

The metadata is a flatbuffer; the few fields that are needed are found by the rules in
https://flatbuffers.dev/internals and the schema in the Arrow format's Message.fbs.
"""

from __future__ import annotations

import struct
from typing import Any

_LARGEST_RATIO = 256
"""What lz4 achieves at most, with a little room."""
_ALWAYS_ALLOWED = 2**28
"""Bytes for a whole batch, since zstd achieves more on constant data."""

_HEADER, _BODY_LENGTH = 2, 3  # Fields of the table Message.
_N_ROWS, _BUFFERS = 0, 2  # Fields of the table RecordBatch.
_N_BUFFER_BYTES = 16


def body_length(metadata: bytes) -> int:
    """Return how many bytes follow the metadata of a message."""
    at = _field(metadata, _root(metadata), _BODY_LENGTH)
    length = 0 if at is None else struct.unpack_from("<q", metadata, at)[0]
    if length < 0:
        raise ValueError("a message of negative size")
    return int(length)


def check_declared_sizes(message: Any) -> None:
    """Refuse a record batch message that claims to need more memory than it can.

    Args:
        message: a ``pyarrow.ipc.Message``.

    Raises:
        ValueError: If it does, or if it is no record batch.
    """
    if message.type != "record batch":
        raise ValueError(f"a message of type {message.type!r}, expected a record batch")
    metadata = message.metadata.to_pybytes()
    body = message.body
    at = _field(metadata, _root(metadata), _HEADER)
    if at is None:
        raise ValueError("a record batch without header")
    header = at + struct.unpack_from("<I", metadata, at)[0]
    at = _field(metadata, header, _BUFFERS)
    if at is None:
        return
    vector = at + struct.unpack_from("<I", metadata, at)[0]
    n_buffers = struct.unpack_from("<I", metadata, vector)[0]
    claimed = 0
    for i in range(n_buffers):
        offset, length = struct.unpack_from("<qq", metadata, vector + 4 + i * _N_BUFFER_BYTES)
        if offset < 0 or length < 0 or offset + length > body.size:
            raise ValueError("a buffer outside of its message")
        if length >= 8:
            claimed += max(0, struct.unpack("<q", body.slice(offset, 8).to_pybytes())[0])
    at = _field(metadata, header, _N_ROWS)
    n_rows = 0 if at is None else struct.unpack_from("<q", metadata, at)[0]
    limit = max(_ALWAYS_ALLOWED, _LARGEST_RATIO * body.size)
    if (is_compressed(metadata, header) and claimed > limit) or not 0 <= n_rows <= limit:
        raise ValueError(f"{body.size:,} bytes that claim to be more than they can hold")


def is_compressed(metadata: bytes, header: int) -> bool:
    """Return whether the buffers of a record batch are compressed."""
    compression_field = 3
    return _field(metadata, header, compression_field) is not None


def _root(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _field(data: bytes, table: int, number: int) -> int | None:
    """Return where a field of a table is; ``None`` if it has its default."""
    virtual_table = table - struct.unpack_from("<i", data, table)[0]
    if virtual_table < 0:
        raise ValueError("a table outside of its message")
    size = struct.unpack_from("<H", data, virtual_table)[0]
    at = 4 + 2 * number
    if at + 2 > size:
        return None
    offset = struct.unpack_from("<H", data, virtual_table + at)[0]
    return table + offset if offset else None
