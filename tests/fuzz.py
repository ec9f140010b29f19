"""`python -m tests.fuzz`: broken inputs to the readers of plans, trainers' configs, captions, data sets and LoRA files.

Each case is a whole input with bytes or values changed. Reading it must give a value or a `LoracError`: any other
exception, a case of more than `SLOWEST` seconds, and a file written outside the case's folder end the fuzzing. The
cases follow from their number (Hypothesis, derandomised).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import faulthandler
import hashlib
import json
import os
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lorac import caption_tables
from lorac.importers.importing import import_file
from runtime import plan
from runtime.data import tables, text_sets
from runtime.errors import LoracError
from runtime.lora_files import adapter, inspection
from runtime.safeio import atomic, strict_json
from tests.lorac.importers import configs
from tests.lorac.plans import a_plan

SLOWEST = 60
"""Seconds: a hang. A case takes some milliseconds."""

TRICKS = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"'",
    b"\r\n",
    b",",
    b"{" * 500,
    b"[" * 5000,
    b"1e999",
    b"NaN",
    b"-1",
    b"9" * 5000,
    b"../../escaped",
    b"\x1b[31m",
    "\u202e".encode(),
    b"\xed\xa0\x80",
    b"!!python/object/apply:os.system ['touch canary']",
    b"&a [*a]",
    b"=cmd|' /C calc'!A0",
    b"{{ 7 * 7 }}",
)

ODD: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../x", "/etc/passwd", "a\nb", "\x1b[2J", "", "nan", 2**63, -(2**70), 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw: st.DrawFn, wholes: Sequence[bytes]) -> bytes:
    """One of these with up to four places replaced by other bytes."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 40))
        data[at:end] = draw(st.sampled_from(TRICKS) | st.binary(max_size=8))
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """JSON data with up to three values replaced, taken out or put in."""
    data = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = data
        while isinstance(place, dict | list) and place:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(list(keys)))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 3)) == 0:
                _change(draw, place, key)
                break
            place = inner
    return data


def _change(draw: st.DrawFn, place: Any, key: Any) -> None:
    how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if how == "replace":
        place[key] = draw(ODD)
    elif how == "remove":
        del place[key]
    elif isinstance(place, dict):
        place[draw(st.text(max_size=5))] = draw(ODD)
    else:
        place.append(draw(ODD))


# ------------------------------------------------------------------------------------------------------- the inputs


def plans() -> st.SearchStrategy[bytes]:
    """Plans whose bytes are damaged, or whose values are changed; half of the latter have their hash made right."""
    text = plan.dumps(a_plan())

    def rehashed(data: Any, wanted: bool) -> bytes:
        if wanted and isinstance(data, dict) and "program" in data:
            with contextlib.suppress(ValueError, TypeError, LoracError, RecursionError):
                data["plan_hash"] = hashlib.sha256(
                    strict_json.canonical(data["program"]).encode()
                ).hexdigest()
        return json.dumps(data).encode("utf-8", errors="surrogatepass")

    return damaged([text.encode()]) | st.builds(rehashed, changed(json.loads(text)), st.booleans())


def trainers() -> st.SearchStrategy[bytes]:
    """Configs of each trainer, damaged."""
    wholes = [
        value.encode() for name, value in vars(configs).items() if name.isupper() and isinstance(value, str)
    ]
    return damaged([*wholes, plan.dumps(a_plan()).encode()]) | st.binary(max_size=200)


def captions() -> st.SearchStrategy[bytes]:
    """metadata.csv: any fields, or a whole one that is damaged."""
    field = st.text(max_size=30) | st.sampled_from(
        ["0000.png", "=1+1", "+cmd", "@SUM(A1)", "<script>", "a, b", '"']
    )
    rows = st.lists(st.lists(field, min_size=1, max_size=3).map(",".join), max_size=5)
    head = st.sampled_from(["image,prompt", "file_name,text", "file_name,caption,x", "image;prompt", ""])
    made = st.builds(lambda first, rest: "\n".join([first, *rest]), head, rows)
    encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp932"])
    whole = b'image,prompt\r\n0000.png,a red thing\r\n0001.png,"a, b"\r\n'
    return damaged([whole]) | st.builds(
        lambda text, name: text.encode(name, errors="replace"), made, encodings
    )


def rows() -> st.SearchStrategy[bytes]:
    """Rows of .jsonl, damaged."""
    lines = [
        {"instruction": "Say 3", "output": "3"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"file_name": "0000.png", "text": "a"},
    ]
    return damaged(
        [b"\n".join(json.dumps(line).encode() for line in lines)] + [json.dumps(x).encode() for x in lines]
    )


def loras() -> st.SearchStrategy[bytes]:
    """A LoRA's file: damaged, or with another header."""
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{name}.lora_down.weight": torch.ones(2, 8),
        f"{name}.lora_up.weight": torch.ones(8, 2),
        f"{name}.alpha": torch.tensor(2.0),
    }
    whole = save(tensors, {"ss_network_dim": "2", "ss_tag_frequency": '{"a": {"b": 1}}'})
    (length,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def packed(header: Any) -> bytes:
        text = json.dumps(header).encode("utf-8", errors="surrogatepass")
        return struct.pack("<Q", len(text)) + text + body

    shapes = st.lists(st.integers(0, 4), max_size=4)
    parts = [
        *tensors,
        f"{name}.lora_up.weight ",
        "base_model.model.q.lora_A.weight",
        "q.hada_w1_a",
        "unet.q.lora.down",
    ]
    words = st.sampled_from(
        [adapter.IN_DIFFUSERS, adapter.CARRIED_CONFIGS, adapter.ALPHA_FORM, "ss_network_args"]
    )
    values = ODD.filter(is_json).map(json.dumps) | st.sampled_from(['{"unet.r": 2}', '{"*": "F16[]"}', "{"])
    odd = st.builds(
        lambda made, said: save({key: torch.ones(shape) for key, shape in made.items()}, said),
        st.dictionaries(
            st.sampled_from(parts) | st.text(max_size=5).filter(is_json), shapes, min_size=1, max_size=4
        ),
        st.dictionaries(words, values, max_size=2),
    )
    return damaged([whole]) | changed(header).map(packed) | odd


def is_json(value: Any) -> bool:
    """Whether it can be written as UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in json.dumps(value, ensure_ascii=False))


def read_lora(file: Path) -> None:
    inspection.inspected(adapter.read(file), lambda *_: None)


def read_rows(file: Path) -> None:
    list(tables.rows(file))
    text_sets.read(file)


TARGETS: dict[str, tuple[str, Callable[[], st.SearchStrategy[bytes]], Callable[[Path], object]]] = {
    "plan reader": ("plan.json", plans, plan.read),
    "importers": ("config.yaml", trainers, lambda file: import_file(file, file.with_name("made.py"))),
    "metadata.csv": ("metadata.csv", captions, caption_tables.read),
    "metadata.jsonl": ("metadata.jsonl", rows, caption_tables.read),
    "text sets": ("rows.jsonl", rows, read_rows),
    "LoRA reader": ("lora.safetensors", loras, read_lora),
}
"""Reader -> the file's name, its inputs, how it is read."""


# ---------------------------------------------------------------------------------------------------------- fuzzing


@attrs.define
class Count:
    """What became of a reader's cases."""

    cases: int = 0
    read: int = 0
    refused: int = 0
    refusals: int = 0
    seconds: float = 0.0


@contextlib.contextmanager
def no_writes_outside(folder: Path) -> Iterator[None]:
    """Raises AssertionError where a file outside of `folder` was opened for writing."""
    written: list[str] = []
    WATCHING.append((folder, written))
    try:
        yield
    finally:
        WATCHING.pop()
    assert not written, f"written outside: {written}"


WATCHING: list[tuple[Path, list[str]]] = []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and WATCHING and isinstance(arguments[0], str | bytes):
        path, _, flags = arguments
        folder, written = WATCHING[-1]
        if flags & WRITES and not Path(os.fsdecode(path)).resolve().is_relative_to(folder):
            written.append(os.fsdecode(path))


sys.addaudithook(_watch)


def fuzz(target: str, cases: int) -> Count:
    """Read so many inputs. Raises what a reader should not have raised."""
    name, inputs, read = TARGETS[target]
    count, said = Count(), Counter[str]()

    @settings(
        max_examples=cases,
        deadline=SLOWEST * 1000,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs())
    def one(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary).resolve()
            file = folder / name
            file.write_bytes(data)
            count.cases += 1
            faulthandler.dump_traceback_later(2 * SLOWEST, exit=True)
            try:
                with no_writes_outside(folder), contextlib.chdir(folder):
                    read(file)
                count.read += 1
            except LoracError as error:
                count.refused += 1
                lines = error.lines()
                assert all(line.isprintable() for line in lines), lines
                said[type(error).__name__ + error.problems[0].what[:20]] += 1
            finally:
                faulthandler.cancel_dump_traceback_later()
            assert not (folder / "canary").exists()

    began = time.monotonic()
    one()
    count.seconds = round(time.monotonic() - began, 1)
    count.refusals = len(said)
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the counts down."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=1000, help="of each reader (default: 1000)")
    parser.add_argument("--out", type=Path, default=Path("docs/fuzz.json"), help="where the counts are")
    options = parser.parse_args(arguments)
    counts = {}
    for target in TARGETS:
        counts[target] = attrs.asdict(fuzz(target, options.cases))
        print(target, counts[target], flush=True)
    made = {"command": f"python -m tests.fuzz --cases {options.cases}", "readers": counts}
    atomic.write_text(options.out, json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
