"""Pickles and archives that lie or blow up: each is refused in a line, soon and in little memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.safeio import inert_pickle
from runtime.safeio.weights import open_weights
from tests.attacks.archives import WEIGHTS, integer, legacy, program, storage, table, tensor, zipped
from tests.attacks.payloads import call, items, name, text

pytestmark = pytest.mark.timeout(120)

HINT = "hint: fetch the file again"
COMPRESSED = "the member 'archive/data.pkl' is compressed, which torch.save never does"
HONEST = table(w=tensor())


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What happens in the test takes at most 300 MiB."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * 2**20


def refused(data: bytes) -> list[str]:
    Path("model.ckpt").write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_weights("model.ckpt")
    return caught.value.lines()


def damaged(why: str) -> list[str]:
    return [f"error: model.ckpt: is a damaged checkpoint: {why}", HINT]


def names_in(data: bytes) -> list[str]:
    Path("model.ckpt").write_bytes(data)
    with open_weights("model.ckpt") as weights:
        return list(weights)


def doubled(levels: int) -> bytes:
    """A tuple of two tuples of two tuples…: small in the file, 2**levels when walked or hashed."""
    return b"()".replace(b")", b"t") + b"q\x01" + b"".join(b"h\x01h\x01\x86q\x01" for _ in range(levels))


@pytest.mark.parametrize(
    "bomb",
    [
        b"}" + doubled(100) + b"K\x01s",
        b"}(" + doubled(100) + b"K\x01u",
        b"\x8f(" + doubled(100) + b"\x90",
        b"(" + doubled(100) + b"\x91",
        doubled(100),
        doubled(100) + doubled(100) + b"\x86Q",
        name("collections", "OrderedDict") + b"(" + doubled(100) + b"tR",
        name("torch", "Size") + b"(" + doubled(100) + b"tR",
    ],
    ids=["key", "keys", "set", "frozenset", "value", "persistent id", "argument", "size"],
)
def test_nested_values_are_neither_hashed_nor_walked(bomb: bytes, little_memory: None) -> None:
    assert names_in(zipped(program(table(w=tensor(), bomb=bomb)))) == ["w"]


def test_numbers_made_to_collide_in_a_dict_cost_nothing(little_memory: None) -> None:
    collide = b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(1, 100_000))

    assert names_in(zipped(program(table(w=tensor(), bomb=b"}(" + collide + b"u")))) == ["w"]


def test_a_list_that_is_passed_on_many_times_is_not_copied(little_memory: None) -> None:
    long_list = items(*[b"N"] * 100_000) + b"q\x05"
    passed = b"".join(name("collections", "OrderedDict") + b"h\x05\x85R0" for _ in range(50_000))

    assert names_in(zipped(program(long_list + b"0" + passed + HONEST))) == ["w"]


def test_values_nested_very_deep(little_memory: None) -> None:
    deep_lists = b"]" * 150_000 + b"a" * 149_999
    deep_tuples = b")" + b"\x85" * 300_000

    assert names_in(zipped(program(table(w=tensor(), a=deep_lists, b=deep_tuples)))) == ["w"]


@pytest.mark.parametrize("opcode", [b"(", b"}", b"\x94"])
def test_a_flood_of_opcodes_is_stopped(opcode: bytes, little_memory: None) -> None:
    assert refused(zipped(program(b"}" + opcode * 1_000_001))) == damaged("it has more than 1,000,000 steps")


def test_a_pickle_that_is_too_long_is_not_read(little_memory: None) -> None:
    long_pickle = program(b"C\x00" * (inert_pickle.BYTES_LIMIT // 2))

    assert refused(zipped(long_pickle)) == damaged(
        "its data.pkl has 16,777,219 bytes, 16,777,216 are allowed"
    )


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x8e" + struct.pack("<Q", 2**60),
        b"\x8e" + struct.pack("<Q", 2**64 - 1),
        b"\x8d" + struct.pack("<Q", 2**63),
        b"\x96" + struct.pack("<Q", 2**40),
        b"B" + struct.pack("<I", 2**32 - 1),
        b"X" + struct.pack("<I", 2**32 - 1),
        b"T" + struct.pack("<i", -1),
        b"T" + struct.pack("<i", 2**31 - 1),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x8b" + struct.pack("<i", -5),
        b"\x95" + struct.pack("<Q", 2**63),
        b"L" + b"9" * 100_000 + b"L\n",
        b"I" + b"9" * 100_000 + b"\n",
        b"F" + b"9" * 100_000 + b"e" + b"9" * 100_000 + b"x\n",
        b"S'unfinished\n",
        b"\xff",
        b"\x00",
        b"",
    ],
)
def test_lengths_beyond_the_end_and_broken_arguments(opcodes: bytes, little_memory: None) -> None:
    assert refused(zipped(b"\x80\x04" + opcodes)) == damaged("it is cut short or not a pickle")


@pytest.mark.parametrize(
    "opcodes",
    [
        b"0",
        b"1",
        b"t",
        b"\x86",
        b"R",
        b"b",
        b"o",
        b"u",
        b"s",
        b"a",
        b"e",
        b"Q",
        b"h\x07",
        b"j\x00\x00\x00\x01",
        b"\x93",
        b"\x92",
        b"2",
        b"",
    ],
)
def test_steps_that_take_what_is_not_there(opcodes: bytes) -> None:
    assert refused(zipped(program(opcodes))) == damaged("its steps do not fit together")


def test_a_memo_number_beyond_reason() -> None:
    why = "it remembers a value under an impossible number"

    assert refused(zipped(program(b"Np" + b"9" * 30 + b"\n"))) == damaged(why)
    assert refused(zipped(program(b"Np-1\n"))) == damaged(why)


def test_every_opcode_of_the_protocols_has_its_step() -> None:
    import pickletools

    assert set(inert_pickle.STEPS) == {opcode.name for opcode in pickletools.opcodes}


LIES = {
    "shape": (tensor(shape=(3, 2)), "tensor w is larger than its storage"),
    "offset": (tensor(offset=1), "tensor w is larger than its storage"),
    "strides": (tensor(strides=(3, 1)), "tensor w is larger than its storage"),
    "huge strides": (tensor(strides=(2**62, 2**62)), "tensor w is larger than its storage"),
    "one value repeated": (
        tensor(shape=(10**6, 10**6), strides=(0, 0)),
        "tensor w is larger than its storage",
    ),
    "huge shape": (tensor(shape=(2**62,) * 60, strides=(0,) * 60), "tensor w is larger than its storage"),
    "negative shape": (tensor(shape=(-2, 2)), "a tensor's shape, strides or offset is not made of counts"),
    "negative stride": (tensor(strides=(-2, 1)), "a tensor's shape, strides or offset is not made of counts"),
    "negative offset": (tensor(offset=-1), "a tensor's shape, strides or offset is not made of counts"),
    "number beyond 128 bits": (
        tensor(shape=(2**300, 2)),
        "a tensor's shape, strides or offset is not made of counts",
    ),
    "dimensions": (
        tensor(shape=(1,) * 65, strides=(1,) * 65),
        "a tensor's shape, strides or offset is not made of counts",
    ),
    "ranks differ": (tensor(strides=(1,)), "a tensor's shape and strides do not fit together"),
    "storage's length": (
        tensor(storage(count=5)),
        "the storage of tensor w is not as long as it claims",
    ),
    "storage's dtype": (
        tensor(storage(kind=name("torch", "HalfStorage"))),
        "the storage of tensor w is not as long as it claims",
    ),
    "huge storage": (tensor(storage(count=2**62)), "the storage of tensor w is not as long as it claims"),
    "missing storage": (tensor(storage("7")), "the bytes of tensor w are missing"),
    "storage outside": (tensor(storage("../byteorder")), "the bytes of tensor w are missing"),
    "two types": (
        tensor() + b"0" + tensor(storage(kind=name("torch", "IntStorage"))),
        "it gives a storage two types or sizes",
    ),
}


@pytest.mark.parametrize(("lie", "why"), LIES.values(), ids=LIES)
def test_tensors_that_claim_what_the_file_has_not(lie: bytes, why: str, little_memory: None) -> None:
    assert refused(zipped(program(table(w=lie)))) == damaged(why)


def test_many_tensors_over_one_storage_are_a_bomb() -> None:
    shared = b"q\x05".join([tensor(storage(count=25_000), shape=(25_000,), strides=(1,)), b""])
    entries = b"}(" + b"".join(text(f"w{i}") + (shared if i == 0 else b"h\x05") for i in range(1000)) + b"u"
    data = zipped(program(entries), s0=bytes(100_000))

    (line, hint) = refused(data)

    assert line == (
        "error: model.ckpt: is a damaged checkpoint: "
        f"its tensors come to 100,000,000 bytes in a file of {len(data):,}"
    )
    assert hint == HINT


def test_the_old_format_lies_about_its_storages() -> None:
    huge = struct.pack("<Q", 2**62) + WEIGHTS

    assert refused(legacy(HONEST, huge)) == damaged("the bytes of tensor w are missing")
    assert refused(legacy(HONEST, b"")) == damaged("the bytes of tensor w are missing")
    assert refused(legacy(HONEST, keys=())) == damaged("the bytes of tensor w are missing")
    assert refused(legacy(HONEST, struct.pack("<Q", 2) + WEIGHTS)) == damaged(
        "the storage of tensor w is not as long as it claims"
    )


def test_a_compressed_archive_is_not_inflated(little_memory: None) -> None:
    bomb = zipped(
        program(table(w=tensor(storage(count=2**28)))), method=zipfile.ZIP_DEFLATED, s0=bytes(2**20)
    )

    assert refused(bomb) == damaged(
        "the member 'archive/data.pkl' is compressed, which torch.save never does"
    )


def archive(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path, data in members:
            made.writestr(path, data)
    return buffer.getvalue()


def test_an_archive_without_a_pickle_or_with_two() -> None:
    line = ["error: model.ckpt: is a zip archive but not a checkpoint: it has no data.pkl"]

    assert refused(archive(("a.txt", b""))) == line
    assert refused(archive(("data.pkl", program(HONEST)))) == line
    assert refused(archive(("a/b/data.pkl", program(HONEST)))) == line
    assert refused(archive(("a/data.pkl", program(HONEST)), ("b/data.pkl", program(HONEST)))) == line


def test_a_member_twice() -> None:
    data = archive(("a/data.pkl", program(HONEST)), ("a/data/0", WEIGHTS), ("a/data/0", WEIGHTS))

    assert refused(data) == damaged("the member 'a/data/0' is there twice")


def test_names_that_climb_out_are_only_names() -> None:
    data = archive(
        ("../../x/data.pkl", b""), ("a/data.pkl", program(HONEST)), ("a/data/0", WEIGHTS), ("/etc/x", b"")
    )

    assert names_in(data) == ["w"]
    assert [path.name for path in Path().iterdir()] == ["model.ckpt"]


HONEST_ZIP = zipped(program(HONEST))
DIRECTORY = HONEST_ZIP.index(b"PK\x01\x02")
END = HONEST_ZIP.index(b"PK\x05\x06")


def patched(at: int, form: str, value: int) -> bytes:
    data = bytearray(HONEST_ZIP)
    struct.pack_into(form, data, at, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (patched(END + 16, "<I", len(HONEST_ZIP)), "its list of members is not inside it"),
        (patched(END + 12, "<I", 2**32 - 1), "its list of members is not inside it"),
        (patched(END + 16, "<I", DIRECTORY - 8), "its list of members is broken"),
        (patched(DIRECTORY + 8, "<H", 1), COMPRESSED),
        (patched(DIRECTORY + 20, "<I", 1), "the member 'archive/data.pkl' has two sizes"),
        (patched(DIRECTORY + 42, "<I", 2**31), "the member 'archive/data.pkl' is not inside it"),
        (patched(DIRECTORY + 42, "<I", 4), "the member 'archive/data.pkl' is not where the list says"),
        (patched(DIRECTORY + 46, "<B", ord("X")), "the member 'Xrchive/data.pkl' is not where the list says"),
        (patched(30, "<B", ord("X")), "the member 'archive/data.pkl' is not where the list says"),
        (HONEST_ZIP + b"more", "something follows its end"),
    ],
)  # fmt: skip
def test_an_archive_that_lies_about_where_things_are(data: bytes, why: str) -> None:
    assert refused(data) == damaged(why)


def test_a_list_of_members_that_stops_in_an_entry() -> None:
    data = bytearray(HONEST_ZIP[: DIRECTORY + 4] + HONEST_ZIP[END:])
    struct.pack_into("<I", data, len(data) - 10, 4)

    assert refused(bytes(data)) == damaged("its list of members is cut short")


def test_members_that_lie_over_one_another() -> None:
    start = 30 + len("archive/data.pkl")
    next_header = HONEST_ZIP.index(b"PK\x03\x04", 4)
    into_the_next = next_header - start + 30 + len("archive/byteorder") + 1
    data = bytearray(HONEST_ZIP)
    struct.pack_into("<II", data, DIRECTORY + 20, into_the_next, into_the_next)

    assert refused(bytes(data)) == damaged("the member 'archive/byteorder' overlaps another")


def test_a_truncated_archive_says_so() -> None:
    for length in (30, 200, DIRECTORY, END):
        assert refused(HONEST_ZIP[:length]) == [
            "error: model.ckpt: is truncated: the end of the archive is missing",
            HINT,
        ]


def test_big_endian_files_are_refused_and_not_misread() -> None:
    data = archive(("a/data.pkl", program(HONEST)), ("a/byteorder", b"big"), ("a/data/0", WEIGHTS))

    assert refused(data) == [
        "error: model.ckpt: was written on a big-endian machine, which lorac does not read",
        "hint: convert it to safetensors there",
    ]


def test_a_quantised_tensor_is_left_out_and_the_others_are_read() -> None:
    quantised = call(name("torch._utils", "_rebuild_qtensor"), storage("9", name("torch", "QInt8Storage")))

    assert names_in(zipped(program(table(q=quantised, w=tensor())))) == ["w"]
