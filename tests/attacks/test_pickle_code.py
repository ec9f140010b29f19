"""No pickle runs: every trick works on Python's own machine, and does nothing on ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.safeio.weights import open_weights
from tests.attacks.archives import legacy, program, storage, table, tensor, zipped
from tests.attacks.payloads import PAYLOADS, Payload, call, items, name, os_system, text, values

NOT_A_CHECKPOINT = [
    "error: model.ckpt: is a pickle but not a checkpoint that torch.save wrote",
    "hint: give the model as .safetensors",
]
NO_TENSORS = [
    "error: model.ckpt: holds no tensors by name, neither at its top nor under state_dict",
    "hint: convert it to safetensors",
]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that only a payload makes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "canary"


def made(canary: Path) -> bool:
    """The canary, or what a library makes of its name (`dbm` adds a suffix)."""
    return any(path.name.startswith("canary") for path in canary.parent.iterdir())


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_the_attack_is_real(payload: Payload, canary: Path) -> None:
    reader = "import pickle; pickle.load(open('model.pkl', 'rb'))"
    for protocol in (
        b"\x80\x02",
        b"\x80\x04",
    ):  # Python 2's names go by the first, dotted names by the second
        Path("model.pkl").write_bytes(protocol + payload(canary) + b".")
        subprocess.run([sys.executable, "-S", "-c", reader], capture_output=True, timeout=60)

    assert made(canary)


def alone(payload: bytes) -> bytes:
    return b"\x80\x04" + payload + b"."


def alone_in_a_zip(payload: bytes) -> bytes:
    return zipped(program(payload))


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize(
    ("place", "lines"), [(alone, NOT_A_CHECKPOINT), (alone_in_a_zip, NO_TENSORS)], ids=["bare", "zip"]
)
def test_a_payload_alone_is_refused_and_not_run(
    payload: Payload, place: Callable[[bytes], bytes], lines: list[str], canary: Path
) -> None:
    Path("model.ckpt").write_bytes(place(payload(canary)))

    with pytest.raises(InputError) as caught:
        open_weights("model.ckpt")

    assert caught.value.lines() == lines
    assert not made(canary)


def in_the_callbacks(payload: bytes) -> bytes:
    return zipped(program(table(state_dict=table(w=tensor()), callbacks=payload)))


def before_the_tensors(payload: bytes) -> bytes:
    return zipped(program(table(callbacks=payload, state_dict=table(w=tensor()))))


def among_the_tensors(payload: bytes) -> bytes:
    return zipped(program(table(state_dict=table(a=payload, w=tensor(), z=payload))))


def as_a_key(payload: bytes) -> bytes:
    return zipped(program(table(state_dict=table(w=tensor())) + b"(" + payload + b"K\x01u"))


def as_the_state_of_the_dict(payload: bytes) -> bytes:
    ordered = call(name("collections", "OrderedDict")) + b"(" + text("w") + tensor() + b"u"
    return zipped(program(table(state_dict=ordered + payload + b"b")))


def as_an_argument_of_the_tensor(payload: bytes) -> bytes:
    arguments = values(tensor(), b"\x89", payload)
    return zipped(program(table(w=name("torch._utils", "_rebuild_parameter") + arguments + b"R")))


def as_another_persistent_id(payload: bytes) -> bytes:
    return zipped(program(table(w=tensor(), other=payload + b"Q")))


def as_another_storages_type(payload: bytes) -> bytes:
    return zipped(program(table(w=tensor(), other=tensor(storage("1", payload)))))


def behind_the_end(payload: bytes) -> bytes:
    return zipped(program(table(w=tensor())) + program(payload))


def in_the_old_format(payload: bytes) -> bytes:
    return legacy(table(state_dict=table(w=tensor()), callbacks=payload))


PLACES = [
    in_the_callbacks,
    before_the_tensors,
    among_the_tensors,
    as_a_key,
    as_the_state_of_the_dict,
    as_an_argument_of_the_tensor,
    as_another_persistent_id,
    as_another_storages_type,
    behind_the_end,
    in_the_old_format,
]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("place", PLACES)
def test_beside_a_payload_the_tensors_are_read_and_it_is_not_run(
    payload: Payload, place: Callable[[bytes], bytes], canary: Path
) -> None:
    Path("model.ckpt").write_bytes(place(payload(canary)))

    with open_weights("model.ckpt") as weights:
        assert list(weights) == ["w"]
        assert weights.load("w").tolist() == [[1, 2], [3, 4]]

    assert not made(canary)


def test_torchs_own_loader_of_bytes_is_not_called(canary: Path) -> None:
    """`_load_from_bytes` is torch.load on bytes from the file: a checkpoint in a checkpoint."""
    inner = legacy(os_system(canary))
    loaded = call(name("torch.storage", "_load_from_bytes"), b"B" + len(inner).to_bytes(4, "little") + inner)
    Path("model.ckpt").write_bytes(zipped(program(table(w=tensor(), other=loaded))))

    with open_weights("model.ckpt") as weights:
        assert list(weights) == ["w"]

    assert not made(canary)


def test_rebuilding_by_a_function_from_the_file_calls_nothing(canary: Path) -> None:
    """torch._tensor._rebuild_from_type_v2(function, type, arguments, state) calls its first argument."""
    arguments = (name("os", "system"), name("torch", "Tensor"), values(text(f"touch {canary}")), b"}")
    rebuilt = call(name("torch._tensor", "_rebuild_from_type_v2"), *arguments)
    Path("model.ckpt").write_bytes(zipped(program(table(w=tensor(), other=rebuilt))))

    with open_weights("model.ckpt") as weights:
        assert list(weights) == ["w"]

    assert not made(canary)


def test_reading_imports_nothing_that_the_file_names(canary: Path) -> None:
    Path("evil_module.py").write_text(f"open({str(canary)!r}, 'w').close()")
    Path("model.ckpt").write_bytes(zipped(program(table(w=tensor(), other=name("evil_module", "anything")))))
    script = (
        "import sys; sys.path.insert(0, '.'); from runtime.safeio.weights import open_weights; "
        "open_weights('model.ckpt'); print('evil_module' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])

    result = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": root}, capture_output=True, text=True
    )

    assert result.stdout == "False\n"
    assert not made(canary)


def test_a_class_used_as_a_dict_still_gives_its_tensors(canary: Path) -> None:
    """Trainers store their own dict classes: the placeholder keeps what was put under string keys."""
    own = name("somewhere.trainer", "AttributeDict") + b")\x81(" + text("w") + tensor() + b"u"
    Path("model.ckpt").write_bytes(zipped(program(table(state_dict=own, callbacks=items(os_system(canary))))))

    with open_weights("model.ckpt") as weights:
        assert weights["w"].shape == (2, 2)

    assert not made(canary)
