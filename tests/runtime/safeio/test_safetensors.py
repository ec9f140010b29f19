"""Safetensors as others write and read them; our bytes always the same. The lies are in tests/attacks."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch as library
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import DivergedError, InputError
from runtime.safeio import safetensors
from runtime.safeio.tensors import BITS, TORCH_NAMES
from runtime.safeio.weights import open_weights
from tests.runtime.safeio.refusals import refusal


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of_every_dtype() -> dict[str, torch.Tensor]:
    """Two tensors of each dtype that torch and the format share, names against the order of the dtypes."""
    tensors = {}
    for rank, name in enumerate(TORCH_NAMES.values()):
        raw = torch.arange(48, dtype=torch.uint8) % 2
        dtype = getattr(torch, name)
        tensors[f"{rank:02} {name}"] = raw.view(dtype)
        tensors[f"{99 - rank:02} {name}"] = raw.clone().view(dtype).reshape(2, -1)
    return tensors


def body(data: bytes) -> bytes:
    return data[8 + struct.unpack("<Q", data[:8])[0] :]


def test_the_body_is_the_one_that_the_library_writes() -> None:
    tensors = of_every_dtype()

    safetensors.write("ours.safetensors", tensors, {"a": "1"})

    assert body(Path("ours.safetensors").read_bytes()) == body(library.save(tensors))


def test_what_is_written_the_library_reads() -> None:
    tensors = {
        **of_every_dtype(),
        "transposed": torch.arange(12.0).reshape(3, 4).T,
        "scalar": torch.tensor(3.0),
    }
    tensors["none"] = torch.zeros(0, 3)

    safetensors.write("ours.safetensors", tensors, {"é": "ü\n", "a": "1"})

    read = library.load_file("ours.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert bytes_of(read[name]) == bytes_of(tensor)


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = of_every_dtype() | {"none": torch.zeros(0, 3), "scalar": torch.tensor(3.0)}
    library.save_file(tensors, "theirs.safetensors", {"format": "pt"})

    with open_weights("theirs.safetensors") as weights:
        assert set(weights) == set(tensors)
        assert weights.metadata == {"format": "pt"}
        for name, tensor in tensors.items():
            assert weights[name].shape == tensor.shape
            assert bytes_of(weights.load(name)) == bytes_of(tensor)


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_an_empty_tensor_is_written_and_read_whatever_its_stride(tmp_path: Path) -> None:
    empty = torch.empty(0, dtype=torch.int64).as_strided((0,), (0,))
    safetensors.write(tmp_path / "file.safetensors", {"empty": empty, "full": torch.arange(3)})

    with open_weights(tmp_path / "file.safetensors") as file:
        assert (file.load("empty").shape, file.load("full").tolist()) == ((0,), [0, 1, 2])


def test_the_header_in_full() -> None:
    tensors = {"b": torch.zeros(2, 3, dtype=torch.float16), "a": torch.zeros(1)}

    data = safetensors.serialise(tensors, {"z": "1", "m": "é"})

    length = struct.unpack("<Q", data[:8])[0]
    assert length % 8 == 0
    assert data[8 : 8 + length].decode().rstrip(" ") == (
        '{"__metadata__":{"m":"é","z":"1"},'
        '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        '"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]}}'
    )


def test_the_order_in_which_things_are_given_changes_no_byte() -> None:
    tensors, metadata = of_every_dtype(), {str(i): "x" for i in range(20)}

    forwards = safetensors.serialise(tensors, metadata)
    backwards = safetensors.serialise(dict(reversed(tensors.items())), dict(reversed(metadata.items())))

    assert forwards == backwards


def test_another_process_writes_the_same_bytes() -> None:
    script = (
        "import torch; from runtime.safeio import safetensors; "
        "safetensors.write('theirs', {c: torch.full((3,), ord(c)) for c in 'bca'}, {c: c for c in 'zyx'})"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)

    safetensors.write("ours", {c: torch.full((3,), ord(c)) for c in "abc"}, {c: c for c in "xyz"})

    assert Path("ours").read_bytes() == Path("theirs").read_bytes()


def test_the_header_is_listed_without_torch() -> None:
    safetensors.write("a.safetensors", {"w": torch.zeros(2, 3)})
    script = (
        "import sys; from runtime.safeio import atomic, digest, images, paths, strict_json, weights; "
        "print({n: (i.dtype, i.shape) for n, i in weights.open_weights('a.safetensors').items()}, "
        "'torch' in sys.modules)"
    )
    root = str(Path(__file__).parents[3])

    result = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": root}, capture_output=True, text=True
    )

    assert result.stdout == "{'w': ('F32', (2, 3))} False\n"


def test_the_bodys_hash_does_not_depend_on_the_metadata() -> None:
    tensors = {"w": torch.arange(1000.0)}
    safetensors.write("a.safetensors", tensors)
    safetensors.write("b.safetensors", tensors, {"more": "text"})

    expected = hashlib.sha256(body(library.save(tensors))).hexdigest()

    assert safetensors.body_sha256("a.safetensors") == safetensors.body_sha256("b.safetensors") == expected


def test_values_that_are_not_finite_are_named_and_not_written() -> None:
    tensors = {
        "up": torch.tensor([1.0, float("nan"), float("inf")]),
        "down": torch.ones(3, dtype=torch.bfloat16),
        "half": torch.tensor([float("-inf")], dtype=torch.float16),
        "eighth": torch.tensor([float("nan"), 1.0]).to(torch.float8_e4m3fn),
        "count": torch.tensor([1]),
    }

    assert refusal(DivergedError, safetensors.write, "a.safetensors", tensors) == [
        "error: a.safetensors: not written: 1 of 2 values of eighth are not finite",
        "error: a.safetensors: not written: 1 of 1 values of half are not finite",
        "error: a.safetensors: not written: 2 of 3 values of up are not finite",
        "hint: lower the learning rate",
    ]
    assert not Path("a.safetensors").exists()

    safetensors.write("a.safetensors", tensors, finite=False)
    assert Path("a.safetensors").exists()


def test_a_header_that_others_would_not_read_is_not_written() -> None:
    lines = refusal(
        InputError,
        safetensors.write,
        "a.safetensors",
        {"w": torch.zeros(1)},
        {"ss_tag_frequency": "x" * 2**20},
        header_limit=safetensors.WEBUI_HEADER,
    )

    assert lines == [
        "error: a.safetensors: needs a header of 1,048,672 bytes, and readers take at most 1,048,576",
        "hint: shorten the metadata",
    ]
    assert not Path("a.safetensors").exists()


def test_metadata_is_text_only() -> None:
    with pytest.raises(TypeError, match="metadata holds strings only, got 'a': 1"):
        safetensors.serialise({"w": torch.zeros(1)}, {"a": 1})  # type: ignore[dict-item]


def test_every_dtype_has_a_size_and_a_place() -> None:
    assert {name: getattr(torch, torch_name).itemsize * 8 for name, torch_name in TORCH_NAMES.items()} == {
        name: BITS[name] for name in TORCH_NAMES
    }


def test_a_dtype_that_torch_has_not_is_listed_and_not_loaded() -> None:
    header = json.dumps({"w": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}}).encode()
    Path("a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))

    with open_weights("a.safetensors") as weights:
        assert weights["w"].shape == (16,)
        assert refusal(InputError, weights.load, "w") == [
            "error: a.safetensors: tensor w has dtype F4, which torch cannot hold",
            "hint: convert it to F16",
        ]


def test_a_file_cut_short_after_it_was_opened_is_an_error_and_not_a_crash() -> None:
    safetensors.write("a.safetensors", {"w": torch.zeros(100_000)})

    with open_weights("a.safetensors") as weights:
        with Path("a.safetensors").open("r+b") as file:
            file.truncate(200)
        assert refusal(InputError, weights.load, "w") == [
            "error: a.safetensors: was cut short while being read: tensor w is not whole",
            "hint: restore the file",
        ]


VALID = safetensors.serialise({"a": torch.ones(2, 2), "b": torch.ones(3, dtype=torch.int64)}, {"k": "v"})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: VALID[:60] + tail))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    Path("any.safetensors").write_bytes(data)
    try:
        header = safetensors.read_header("any.safetensors")
    except InputError as error:
        assert error.lines()[0].startswith("error: any.safetensors: ")
    else:
        assert all(info.start <= len(data) for info in header.tensors.values())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_any_changed_byte_leaves_a_file_that_is_whole_or_refused(at: int, value: int) -> None:
    Path("any.safetensors").write_bytes(VALID[:at] + bytes([value]) + VALID[at + 1 :])
    try:
        with open_weights("any.safetensors") as weights:
            for name in weights:
                weights.load(name)
    except InputError as error:
        assert error.lines()[0].startswith("error: any.safetensors: ")


def test_one_tensor_at_a_time_gives_the_same_bytes(tmp_path: Path) -> None:
    """And each tensor is asked for once, when its turn has come."""
    tensors = {"b": torch.ones(3, 2), "a": torch.zeros(4, dtype=torch.float16), "c": torch.tensor(7)}
    asked: list[str] = []

    def load(name: str) -> torch.Tensor:
        asked.append(name)
        return tensors[name]

    described = {name: tensor.to("meta") for name, tensor in tensors.items()}
    safetensors.write_each(tmp_path / "each.safetensors", described, load, {"k": "v"})

    assert (tmp_path / "each.safetensors").read_bytes() == safetensors.serialise(tensors, {"k": "v"})
    assert sorted(asked) == sorted(tensors)


def test_a_tensor_that_is_not_as_described_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not as it was described"):
        safetensors.write_each(
            tmp_path / "each.safetensors", {"a": torch.empty(2, device="meta")}, lambda _: torch.ones(3)
        )
    assert list(tmp_path.iterdir()) == []


def test_an_empty_tensor_of_any_stride_is_written() -> None:
    empty = torch.empty(0, dtype=torch.int64).as_strided((0,), (0,))

    assert library.load(safetensors.serialise({"none": empty}))["none"].shape == (0,)
