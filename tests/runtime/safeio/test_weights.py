"""One door for weights: what torch.save and safetensors write is read alike, and told apart by its bytes."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from runtime.errors import InputError
from runtime.safeio import pickles
from runtime.safeio.weights import open_weights
from tests.attacks.archives import program, storage, table, tensor, write_zip64
from tests.runtime.safeio.refusals import refusal


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class ModelCheckpoint:
    """Stands for pytorch_lightning's callback, which a real SD checkpoint holds."""

    def __init__(self) -> None:
        self.best = Path("x.ckpt")
        self.scores = {torch.tensor(1): 2.0}


def state_dict() -> OrderedDict[str, Any]:
    """Tensors of every kind that a model's state dict holds."""
    state: OrderedDict[str, Any] = OrderedDict(
        torch.nn.Linear(3, 4).state_dict()
    )  # has _metadata, set by BUILD
    base = torch.arange(60.0).reshape(3, 4, 5)
    return OrderedDict(
        state,
        half=torch.randn(2, 3).half(),
        brain=torch.randn(2, 3).bfloat16(),
        double=torch.randn(2).double(),
        parameter=torch.nn.Parameter(torch.ones(4)),
        transposed=base.transpose(0, 2),
        slice=base[1:, ::2, 1:3],
        expanded_once=torch.arange(7).expand(1, -1),
        tied=base,
        number=torch.tensor(3),
        none=torch.zeros(0, 3),
        flags=torch.tensor([True, False]),
        complex=torch.tensor([1 + 2j]),
        bytes=torch.arange(5, dtype=torch.uint8),
        shorts=torch.arange(5, dtype=torch.int16),
    )


CHECKPOINT = {
    "epoch": 3,
    "global_step": 470000,
    "state_dict": None,
    "callbacks": {ModelCheckpoint: ModelCheckpoint()},
    "optimizer_states": [
        {"state": {0: {"step": 1, "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 1e-4}]}
    ],
    "hparams": {"size": torch.Size([1, 2]), "dtype": torch.float16, "device": torch.device("cpu")},
    "name": "sd",
}


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.is_contiguous()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before 1.6"])
def test_a_trainers_checkpoint_gives_its_state_dict(new_format: bool) -> None:
    expected = state_dict()
    torch.save(
        {**CHECKPOINT, "state_dict": expected}, "model.ckpt", _use_new_zipfile_serialization=new_format
    )

    with open_weights("model.ckpt") as weights:
        assert list(weights) == list(expected)
        for name, tensor in expected.items():
            assert weights[name].shape == tensor.shape
            assert_same(weights.load(name), tensor.detach())
        assert weights.metadata == {"epoch": "3", "global_step": "470000", "name": "sd"}


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before 1.6"])
def test_a_bare_state_dict_is_read_too(new_format: bool) -> None:
    expected = state_dict()
    torch.save(expected, "model.bin", _use_new_zipfile_serialization=new_format)

    with open_weights("model.bin") as weights:
        assert list(weights) == list(expected)


def test_dtypes_without_a_storage_class_of_their_own() -> None:
    expected = {
        "eighth": torch.arange(12.0).reshape(3, 4).to(torch.float8_e4m3fn).T,
        "unsigned": torch.arange(6).to(torch.uint16).reshape(2, 3),
    }
    torch.save(expected, "model.pt")

    with open_weights("model.pt") as weights:
        for name, tensor in expected.items():
            raw = tensor.contiguous().view(torch.uint8)
            assert weights.load(name).dtype == tensor.dtype
            assert torch.equal(weights.load(name).view(torch.uint8), raw)


def test_listing_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the storages may be anything: a listing does not look."""
    torch.save({"state_dict": {"w": torch.full((1000, 1000), 7.0)}}, "model.ckpt")
    read: list[int] = []
    real = pickles._bytes

    def counted(file: Any, member: Any, most: int) -> bytes:
        read.append(min(member.end - member.start, most))
        return real(file, member, most)

    monkeypatch.setattr(pickles, "_bytes", counted)

    with open_weights("model.ckpt") as weights:
        assert weights["w"].shape == (1000, 1000)

    assert sum(read) < 1000


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt", "txt", ""])
def test_the_bytes_decide_and_not_the_suffix(suffix: str) -> None:
    torch.save({"w": torch.ones(2)}, f"a.{suffix}")
    safetensors.torch.save_file({"w": torch.ones(2)}, f"b.{suffix}")

    for name in (f"a.{suffix}", f"b.{suffix}"):
        with open_weights(name) as weights:
            assert_same(weights.load("w"), torch.ones(2))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", ["is empty (0 bytes)", "hint: fetch the file again"]),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4265380512\n",
            [
                "is a Git LFS pointer, 135 bytes: fetch the real file",
                "hint: run `git lfs pull` in its folder",
            ],
        ),
        (
            b"\n<!DOCTYPE html><html>",
            ["is a web page, not a model", "hint: fetch it again; the site may want you to log in first"],
        ),
        (
            b'{"metadata": {"total_size": 1}}',
            ["is JSON text, not weights", "hint: give the .safetensors or .ckpt file"],
        ),
        (
            b"GGUF\x03\0\0\0",
            [
                "is a GGUF file, whose quantised weights lorac does not train on",
                "hint: give the .safetensors file",
            ],
        ),
        (b"MZ" + bytes(100), ["is neither a safetensors file nor a checkpoint of torch.save"]),
        (
            b"\x80\x04N.",
            [
                "is a pickle but not a checkpoint that torch.save wrote",
                "hint: give the model as .safetensors",
            ],
        ),
    ],
)
def test_what_is_no_model_is_called_by_its_name(data: bytes, lines: list[str]) -> None:
    Path("model.ckpt").write_bytes(data)

    first, *rest = lines
    assert refusal(InputError, open_weights, "model.ckpt") == [f"error: model.ckpt: {first}", *rest]


def test_a_whole_model_pickled_is_refused_with_what_it_holds() -> None:
    torch.save({"model": ModelCheckpoint(), "epoch": 3}, "model.pt")

    assert refusal(InputError, open_weights, "model.pt") == [
        "error: model.pt: holds no tensors by name, neither at its top nor under state_dict "
        "(it has model, epoch)",
        "hint: convert it to safetensors",
    ]


def test_a_tensor_that_is_not_there_is_named() -> None:
    torch.save({"w": torch.ones(2)}, "model.pt")

    with open_weights("model.pt") as weights:
        assert refusal(InputError, weights.load, "x") == ["error: model.pt: has no tensor x"]


def test_a_loaded_tensor_outlives_its_file_and_may_be_written_to() -> None:
    torch.save({"w": torch.ones(2)}, "model.pt")
    with open_weights("model.pt") as weights:
        tensor = weights.load("w")
    Path("model.pt").unlink()

    tensor += 1

    assert tensor.tolist() == [2, 2]


def test_a_file_over_four_gigabytes_is_read_by_its_64_bit_offsets() -> None:
    count = 2**30 + 2**20
    large = tensor(storage("0", count=count), shape=(count,), strides=(1,))
    small = tensor(storage("1", count=1), shape=(1,), strides=(1,))
    write_zip64(
        Path("model.ckpt"),
        {
            "a/data.pkl": program(table(w=large, end=small)),
            "a/data/0": 4 * count,  # a hole: the file takes no room on disk
            "a/data/1": struct.pack("<f", 7),
        },
    )
    assert zipfile.ZipFile("model.ckpt").read("a/data/1") == struct.pack("<f", 7)

    with open_weights("model.ckpt") as weights:
        assert weights["w"].shape == (count,)
        assert weights["end"].start > 2**32
        assert weights.load("end").tolist() == [7.0]
