"""Any bytes in a checkpoint's place are read or refused in a line: never another error, never a hang."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.safeio.weights import open_weights
from tests.attacks.archives import integer, legacy, program, storage, table, tensor, zipped
from tests.attacks.payloads import text, values

pytestmark = pytest.mark.timeout(120)

HONEST = table(w=tensor())
HONEST_ZIP = zipped(program(HONEST))
HONEST_LEGACY = legacy(table(state_dict=HONEST, global_step=integer(3)))


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read_or_refused(data: bytes) -> None:
    Path("model.ckpt").write_bytes(data)
    try:
        with open_weights("model.ckpt") as weights:
            for tensor_name in weights:
                weights.load(tensor_name)
    except InputError as error:
        assert error.lines()[0].startswith("error: model.ckpt: ")


def test_cut_anywhere_it_is_read_or_refused() -> None:
    for length in range(len(HONEST_ZIP)):
        read_or_refused(HONEST_ZIP[:length])
    for length in range(len(HONEST_LEGACY)):
        read_or_refused(HONEST_LEGACY[:length])
    pickle = program(HONEST)
    for length in range(len(pickle)):
        read_or_refused(zipped(pickle[:length]))


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
@example(b"(K\x01K\x02u.")
def test_any_bytes_as_a_pickle(data: bytes) -> None:
    read_or_refused(zipped(b"\x80\x04" + data))
    read_or_refused(b"\x80\x02" + data)


OPCODES = [bytes([code]) for code in range(256)]
FRAGMENTS = st.sampled_from(
    [*OPCODES, tensor(), storage(), HONEST, values(), b"K\x02", text("w"), b"h\x01", b"q\x01"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAGMENTS, max_size=30))
def test_any_opcodes_in_any_order(parts: list[bytes]) -> None:
    read_or_refused(zipped(program(b"".join(parts))))
    read_or_refused(legacy(b"".join(parts)))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([HONEST_ZIP, HONEST_LEGACY]), st.floats(0, 1, exclude_max=True), st.binary(max_size=8))
def test_any_damage_in_a_checkpoint(data: bytes, place: float, damage: bytes) -> None:
    at = int(place * len(data))
    read_or_refused(data[:at] + damage + data[at + len(damage) :])
