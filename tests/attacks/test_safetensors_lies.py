"""Safetensors files that lie: one line for each lie, before anything is allocated."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import InputError
from runtime.safeio.weights import open_weights


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def entry(start: int, end: int, dtype: str = "U8", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def file_of(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


FETCH = ["hint: fetch the file again"]

LIES: dict[str, tuple[bytes, str, list[str]]] = {
    "empty": (b"", "is empty (0 bytes)", FETCH),
    "short": (b"1234567", "is 7 bytes long, too short for a safetensors file", FETCH),
    "header of 2**63": (
        file_of(b'{"a"', length=2**63),
        "claims a header of 9,223,372,036,854,775,808 bytes; at most 100,000,000 are allowed",
        [],
    ),
    "header beyond the end": (
        file_of(b'{"a"', length=1000),
        "is truncated: 12 bytes, and its header alone ends at 1,008",
        FETCH,
    ),
    "header of nothing": (
        file_of(b""),
        "is not a safetensors file: its header does not start with `{`",
        [],
    ),
    "space before": (
        file_of(b" {}"),
        "is not a safetensors file: its header does not start with `{`",
        [],
    ),
    "a tensor cut off": (
        file_of({"a": entry(0, 100)}, bytes(40)),
        "is truncated: 112 bytes, expected 172",
        FETCH,
    ),
    "bytes behind": (
        file_of({"a": entry(0, 4)}, bytes(9)),
        "has 5 bytes after the last tensor that belong to no tensor",
        [],
    ),
    "only bytes": (
        file_of({}, b"#!/bin/sh"),
        "has 9 bytes after the last tensor that belong to no tensor",
        [],
    ),
    "hole": (
        file_of({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8)),
        "2 bytes before tensor b belong to no tensor",
        [],
    ),
    "hole at the start": (
        file_of({"a": entry(4, 8)}, bytes(8)),
        "4 bytes before tensor a belong to no tensor",
        [],
    ),
    "overlap": (file_of({"a": entry(0, 6), "b": entry(4, 8)}, bytes(8)), "tensors a and b overlap", []),
    "the same bytes": (
        file_of({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
        "tensors a and b overlap",
        [],
    ),
    "backwards": (
        file_of({"a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}}, bytes(4)),
        "tensor a has data_offsets that are not a start and an end",
        [],
    ),
    "negative": (
        file_of({"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}, bytes(4)),
        "tensor a has data_offsets that are not a start and an end",
        [],
    ),
    "offsets as text": (
        file_of({"a": {"dtype": "U8", "shape": [4], "data_offsets": ["0", "4"]}}, bytes(4)),
        "tensor a has data_offsets that are not a start and an end",
        [],
    ),
    "offsets as floats": (
        file_of({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0.0, 4.0]}}, bytes(4)),
        "tensor a has data_offsets that are not a start and an end",
        [],
    ),
    "one offset": (
        file_of({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0]}}, bytes(4)),
        "tensor a has data_offsets that are not a start and an end",
        [],
    ),
    "truth as a size": (
        file_of({"a": entry(0, 1, shape=[True])}, bytes(1)),
        "tensor a has a shape that is not a list of sizes",
        [],
    ),
    "negative size": (
        file_of({"a": entry(0, 4, shape=[-2, -2])}, bytes(4)),
        "tensor a has a shape that is not a list of sizes",
        [],
    ),
    "shape too large": (
        file_of({"a": entry(0, 8, "F32", [3])}, bytes(8)),
        "tensor a: F32 [3] needs 12 bytes, its data_offsets span 8",
        [],
    ),
    "shape too small": (
        file_of({"a": entry(0, 8, "F32", [1])}, bytes(8)),
        "tensor a: F32 [1] needs 4 bytes, its data_offsets span 8",
        [],
    ),
    "shape that overflows": (
        file_of({"a": entry(0, 8, "F32", [2**40, 2**40, 0x10, 2])}, bytes(8)),
        "tensor a: F32 [1099511627776, 1099511627776, 16, 2] needs more, its data_offsets span 8",
        [],
    ),
    "half a byte": (
        file_of({"a": entry(0, 2, "F4", [3])}, bytes(2)),
        "tensor a: F4 [3] needs 2 bytes, its data_offsets span 2",
        [],
    ),
    "dtype of nobody": (
        file_of({"a": entry(0, 8, "F31")}, bytes(8)),
        "tensor a has the unknown dtype F31",
        [],
    ),
    "dtype as a list": (
        file_of({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        "tensor a has the unknown dtype ['F32']",
        [],
    ),
    "more fields": (
        file_of({"a": {**entry(0, 4), "code": "x"}}, bytes(4)),
        "tensor a must have dtype, shape and data_offsets, and nothing else",
        [],
    ),
    "fewer fields": (
        file_of({"a": {"dtype": "U8"}}),
        "tensor a must have dtype, shape and data_offsets, and nothing else",
        [],
    ),
    "no table": (
        file_of({"a": []}),
        "tensor a must have dtype, shape and data_offsets, and nothing else",
        [],
    ),
    "metadata of numbers": (
        file_of({"__metadata__": {"a": 1}}),
        "has metadata that is not a table of strings",
        [],
    ),
    "metadata as a list": (
        file_of({"__metadata__": []}),
        "has metadata that is not a table of strings",
        [],
    ),
    "a name of a megabyte": (
        file_of({"a" * 2**20: []}),
        "tensor " + "a" * 77 + "... must have dtype, shape and data_offsets, and nothing else",
        [],
    ),
    "escapes in a name": (
        file_of({"a\x1b[2J\n": []}),
        "tensor a\\x1b[2J\\n must have dtype, shape and data_offsets, and nothing else",
        [],
    ),
}

HEADER_LIES = {
    "a tensor twice": (
        b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 1)).encode(),) * 2),
        'key "a" is given twice',
    ),
    "deep": (b'{"a":' + b"[" * 100_000, "is nested deeper than 64 levels"),
    "infinite": (b'{"a":1e999}', 'number "1e999" is out of range'),
    "an offset of 2**64": (b'{"a":18446744073709551616}', 'number "18446744073709551616" is out of range'),
    "not UTF-8": (b'{"\xff":1}', "is not UTF-8 (byte 2)"),
}


@pytest.mark.parametrize(("data", "what", "hints"), LIES.values(), ids=LIES)
def test_each_lie_has_its_line(data: bytes, what: str, hints: list[str]) -> None:
    Path("model.safetensors").write_bytes(data)

    with pytest.raises(InputError) as caught:
        open_weights("model.safetensors")

    assert caught.value.lines() == [f"error: model.safetensors: {what}", *hints]


@pytest.mark.parametrize(("header", "what"), HEADER_LIES.values(), ids=HEADER_LIES)
def test_a_header_that_json_alone_would_let_through(header: bytes, what: str) -> None:
    Path("model.safetensors").write_bytes(file_of(header))

    with pytest.raises(InputError) as caught:
        open_weights("model.safetensors")

    assert caught.value.lines() == [f"error: model.safetensors: header: {what}"]


def test_a_claim_of_a_terabyte_allocates_nothing() -> None:
    size = 2**40
    Path("model.safetensors").write_bytes(file_of({"a": entry(0, size, "U8", [size])}))

    tracemalloc.start()
    with pytest.raises(InputError, match="is truncated"):
        open_weights("model.safetensors")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**20
