"""Cards: what a GPU has and how fast it is, by name or by size. No torch, unless the card is to be detected.

- `cards.json` holds the figures, each with its source beside it: memory as the driver reports it
  (nvidia-smi's total) and as CUDA offers it on Linux (an out-of-memory message's "total capacity"),
  bandwidth, dense rates without sparsity.
- A card whose CUDA figure was not seen is given the least share that CUDA was seen to offer of any card's
  memory.
- A size ("12GB", "24") is a card of that size that one may have at home: the least memory and the largest
  context of all such cards, and the speed of the slowest with the newest abilities (bf16, then tensor cores).
- What a step may use is what CUDA offers, less a desktop's share, less a margin for what the prediction may
  miss.
"""

from __future__ import annotations

import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs

from runtime.errors import LoracError, MachineError, Problem, SpecError
from runtime.safeio import strict_json

MIB = 2**20
GB = 10**9
TERA = 10**12

DESKTOP = 512 * MIB
"""What a desktop holds on the card that shows it: idle ones in public nvidia-smi output have 261 to 933 MiB,
the median of eight 477 (the lines that `cards.json` cites, with "Disp.A: On" and less than 1 GiB used)."""

MARGIN = 0.03
"""The share of memory kept free for what the prediction may miss: the largest underestimate against published
measurements was below it (docs/memory.md, "Margin")."""

CPU_SHARE = 0.9
"""Of main memory, what a step on the CPU may use: the rest is the system's and Python's."""


class Work(Protocol):
    """What a call computes and moves."""

    @property
    def flops(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def cells(self) -> int: ...


@attrs.frozen
class Probe:
    """A call that computes, as it was timed: its FLOPs, bytes, rows and cells (`record.Call`), and its seconds."""

    flops: int
    bytes: int
    rows: int
    cells: int
    seconds: float


@attrs.frozen
class Line:
    """Seconds of a call that computes: `start`, and what each FLOP, byte, row and cell adds; `probes` say by how much
    calls of their size are off the line."""

    start: float
    per_flop: float
    per_byte: float
    per_row: float = 0.0
    per_cell: float = 0.0
    probes: tuple[Probe, ...] = ()

    def at(self, call: Work) -> float:
        """Seconds on the line."""
        work = call.flops * self.per_flop + call.bytes * self.per_byte
        return self.start + work + call.rows * self.per_row + call.cells * self.per_cell


@attrs.frozen
class Curve:
    """Seconds of a call that only moves memory, at some `bytes` (rising): small ones stay in the caches."""

    bytes: tuple[int, ...]
    seconds: tuple[float, ...]


@attrs.frozen(kw_only=True)
class Compiling:
    """What torch's compiler takes on a CPU: `start` seconds in each process, `call` seconds for each call of a graph.

    `saved` is what compiled blocks save, by the seconds that what is neither product nor attention in them is taken to
    take: it may be more, as they take less new memory, too.
    """

    start: float
    call: float
    saved: float


@attrs.frozen(kw_only=True)
class Measured:
    """What `lorac calibrate` found: operator -> dtype, both named as torch does, -> what a call takes.

    `launch` is the seconds that each call of a pass ("forward", "backward", "recompute", "optimizer") takes on top:
    Python, autograd, views. `together` is how many times as long calls take in a step as each of them does alone, over
    and over: there, what they read is no longer in the caches, and what they write is memory new to the process.
    `threads` is how many the figures hold for; 0 on a GPU, whose calls overlap their launch. `compiling` is None there,
    and where there is no C++ compiler.
    """

    threads: int
    versions: dict[str, str]
    computing: dict[str, dict[str, Line]]
    moving: dict[str, dict[str, Curve]]
    launch: dict[str, float]
    together: float = 1.0
    compiling: Compiling | None = None


@attrs.frozen(kw_only=True)
class Calibration:
    """A machine's own speeds: figures for `Card`'s fields of the same names, and the curves behind them.

    `bandwidth` in bytes/s, rates in FLOP/s of large matrix products (None where it has none), `launch` in seconds.
    """

    device: str
    bandwidth: float
    fp32: float
    fp16: float | None
    bf16: float | None
    launch: float
    measured: Measured


@attrs.frozen(kw_only=True)
class Card:
    """Where a step runs. Bytes and bytes per second; FLOP/s with a multiply-add as two.

    `link` is what pinned memory crosses the bus at.
    `memory` is what CUDA offers, `usable` what tensors, caches and the context may take together. A rate that
    the card lacks is None. `launch` is the seconds from one kernel's start to the next's when kernels are
    tiny. `measured` holds the finer figures of a machine that was calibrated.
    """

    name: str
    device: Literal["cuda", "cpu"]
    memory: int
    usable: int
    capability: tuple[int, int]
    multiprocessors: int
    bandwidth: float
    fp32: float
    tf32: float | None = None
    fp16: float | None = None
    bf16: float | None = None
    fp8: float | None = None
    launch: float = 5e-6
    link: float = 12e9
    measured: Measured | None = None

    def rate(self, dtype: str) -> float:
        """FLOP/s of a matrix product in a dtype named as torch does ("bfloat16"); float32's where it has no
        own."""
        known = {
            "float16": self.fp16,
            "bfloat16": self.bf16,
            "float8_e4m3fn": self.fp8,
            "float8_e5m2": self.fp8,
        }
        return known.get(dtype) or self.fp32


def find(text: str) -> Card:
    """The card that `text` names: "rtx3060-12gb", "RTX 4090", a size ("12GB", "24GiB", "24"), "auto", "cpu".

    "auto" is the GPU that CUDA sees, with the memory that is free now, or else the CPU. Raises SpecError.
    """
    wanted = _plain(text)
    if wanted == "cpu":
        return cpu()
    if wanted == "auto":
        return detected() or cpu()
    for entry in table():
        if wanted in names(entry):
            return _card(entry["name"], [entry], entry)
    size = re.fullmatch(r"(\d+)(gb|gib|g)?", wanted)
    if size:
        same = [entry for entry in table() if entry["size_gb"] == int(size[1])]
        same = [entry for entry in same if entry["display"]] or same
        if same:
            return _card(f"{size[1]}GB", same, min(same, key=_commonness))
        sizes = sorted({entry["size_gb"] for entry in table()}, key=lambda known: abs(known - int(size[1])))
        near = ", ".join(f"{known}GB" for known in sorted(sizes[:4]))
        raise SpecError(Problem("card", f"no known card has {size[1]} GB", f"sizes near it: {near}"))
    every = [name for entry in table() for name in names(entry)]
    matches = difflib.get_close_matches(wanted, every, n=4, cutoff=0.5) or [
        "rtx3060",
        "rtx4090",
        "12gb",
        "auto",
    ]
    raise SpecError(Problem("card", f"no card is called {text!r}", f"did you mean {', '.join(matches)}?"))


def detected() -> Card | None:
    """The GPU that CUDA sees now, with its free memory; None where there is none.

    To ask for the free memory makes a context of our own. The run will have one too, and its peak counts it: ours is
    added to what is free, as large as the peak takes it to be.
    """
    if not _has_driver():
        return None
    import torch

    from lorac.estimate import cuda

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    entry = nearest(properties.name, total)
    card = calibrated(_card(properties.name, [entry], entry), calibration(properties.name))
    capability = (properties.major, properties.minor)
    card = attrs.evolve(
        card,
        memory=total,
        capability=capability,
        multiprocessors=properties.multi_processor_count,
        bf16=card.bf16 if capability >= (8, 0) else None,
    )
    available = min(total, free + torch.cuda.memory_reserved(0) + cuda.overhead(card))
    return attrs.evolve(card, usable=int(available * (1 - MARGIN)))


def nearest(name: str, memory: int) -> dict[str, Any]:
    """The entry that stands for a card of `memory` bytes that the table may lack: one whose name is part of its
    name, or else one of its size; of several, the one nearest in memory."""
    wanted = _plain(name)
    same = [entry for entry in table() if any(known in wanted for known in names(entry))]
    if same:
        return min(same, key=lambda entry: abs((entry["cuda_mib"] or entry["driver_mib"]) * MIB - memory))
    size = min({entry["size_gb"] for entry in table()}, key=lambda known: abs(known * 2**30 - memory))
    return min((entry for entry in table() if entry["size_gb"] == size), key=_commonness)


def _has_driver() -> bool:
    """Whether CUDA's driver is here at all: asked without loading torch, which takes seconds."""
    import ctypes

    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True


def share(card: Card, processes: int) -> Card:
    """What each of a run's processes has: a card of its own, or its part of the computer."""
    if card.device != "cpu" or processes == 1:
        return card
    return attrs.evolve(
        card,
        usable=card.usable // processes,
        multiprocessors=max(1, card.multiprocessors // processes),
        bandwidth=card.bandwidth / processes,
        fp32=card.fp32 / processes,
        measured=None,  # it was measured with all cores
    )


def cpu() -> Card:
    """This machine's processor and main memory, with its own measured speeds if `lorac calibrate` was run."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    memory = pages * page
    card = Card(
        name="cpu",
        device="cpu",
        memory=memory,
        usable=int(memory * CPU_SHARE),
        capability=(0, 0),
        multiprocessors=os.cpu_count() or 1,
        **UNCALIBRATED_CPU,
    )
    return calibrated(card, calibration())


def calibration_path(device: str = "cpu") -> Path:
    """Where `lorac calibrate` keeps the speeds of a device: "cpu", or a GPU by the name that CUDA gives it."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    stem = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return Path(base) / "lorac" / f"{stem}.json"


def calibration(device: str = "cpu") -> Calibration | None:
    """What `lorac calibrate` kept for a device; None if it was not run. Raises MachineError."""
    path = calibration_path(device)
    if not path.exists():
        return None
    import cattrs

    try:
        return cattrs.structure(strict_json.read(path), Calibration)
    except (LoracError, cattrs.BaseValidationError, KeyError, TypeError, ValueError) as error:
        problem = Problem(str(path), "is not a calibration of this version", "run lorac calibrate again")
        raise MachineError(problem) from error


def calibrated(card: Card, own: Calibration | None) -> Card:
    """The card with a device's own measured speeds, where there are any."""
    if own is None:
        return card
    fields = ("bandwidth", "fp32", "fp16", "bf16", "launch", "measured")
    return attrs.evolve(card, **{name: getattr(own, name) for name in fields})


UNCALIBRATED_CPU: dict[str, Any] = {
    "bandwidth": 10e9,
    "fp32": 50e9,
    "fp16": 5e9,
    "bf16": 25e9,
    "launch": 5e-6,
}
"""A guess for a small machine, until it is measured: two cores with AVX2."""


LINKS = {7: 16, 8: 32, 9: 64, 10: 64, 12: 64}
"""GB/s of sixteen lanes by major compute capability: PCIe 3.0 up to Turing and Volta, 4.0 for Ampere and Ada, 5.0 from
Hopper on (PCI-SIG: 8, 16 and 32 GT/s a lane). Capability 6 (Pascal) is PCIe 3.0 too."""

LINK_REACHED = 0.75
"""Of that, what a copy from pinned memory is taken to reach: 12 and 24 GB/s over PCIe 3.0 and 4.0. An assumption: no
source is cited for it, and it was not measured by us."""

EIGHT_LANES = ("rtx3050", "rtx4060", "rtx5060")
"""Cards with eight lanes, Ti models too (NVIDIA's specifications: "PCI Express Gen 4 x8", "Gen 5 x8")."""


@cache
def table() -> tuple[dict[str, Any], ...]:
    """The entries of `cards.json`."""
    return tuple(strict_json.read(Path(__file__).parent / "cards.json"))


def names(entry: dict[str, Any]) -> set[str]:
    """Every way to write an entry's name, in small letters without spaces, dashes and makers' words."""
    return {_plain(name) for name in (entry["name"], *entry["aliases"])}


@cache
def offered_share() -> float:
    """The least share of the driver's figure that CUDA was seen to offer, over all cards where both are
    known."""
    return float(min(entry["cuda_mib"] / entry["driver_mib"] for entry in table() if entry["cuda_mib"]))


def _plain(text: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[\s_-]", "", text.lower())


def _commonness(entry: dict[str, Any]) -> tuple[bool, bool, bool, float]:
    """First the cards people have at home, with bf16, with tensor cores; of those the slowest."""
    return (
        not entry["display"],
        entry["bf16_tflops"] is None,
        entry["capability"] < [7, 0],
        entry["bandwidth_gbs"],
    )


def _offered(entry: dict[str, Any]) -> int:
    mebibytes = entry["cuda_mib"] or entry["driver_mib"] * offered_share()
    return int(mebibytes) * MIB


def _card(name: str, same: list[dict[str, Any]], entry: dict[str, Any]) -> Card:
    """A card with the least memory and the most multiprocessors of `same`, and the speed of `entry`."""
    memory = min(_offered(one) for one in same)
    desktop = DESKTOP if entry["display"] else 0

    def rate(dtype: str) -> float | None:
        figure = entry[f"{dtype}_tflops"]
        return None if figure is None else float(figure * TERA)

    return Card(
        name=name,
        device="cuda",
        memory=memory,
        usable=int((memory - desktop) * (1 - MARGIN)),
        capability=(entry["capability"][0], entry["capability"][1]),
        multiprocessors=max(one["multiprocessors"] for one in same),
        bandwidth=float(entry["bandwidth_gbs"] * GB),
        fp32=float(entry["fp32_tflops"] * TERA),
        tf32=rate("tf32"),
        fp16=rate("fp16"),
        bf16=rate("bf16"),
        fp8=rate("fp8"),
        link=min(_link(one) for one in same),
    )


def _link(entry: dict[str, Any]) -> float:
    lanes = 0.5 if _plain(entry["name"]).startswith(EIGHT_LANES) else 1.0
    return LINKS.get(entry["capability"][0], LINKS[7]) * GB * lanes * LINK_REACHED
