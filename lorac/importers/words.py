"""What trainers call by the same names: dtypes, schedulers, optimizers, methods."""

from __future__ import annotations

import ast
import math
import re
from typing import Any, get_args

from lorac.importers.ledger import OFF, CannotCarry, Ledger, Path, bare, is_off, number, whole
from lorac.spec_train import Scheduler

PLANNER = "lorac's planner decides it; the result is the same"
EAGER = "lorac's planner decides it: on a CPU, where compiling pays back within the run (fit.compile)"
HOW_COMPILED = "it matters for a compiled step alone"
ATTENTION = "attention is exact whichever kernel computes it"
CACHED = "lorac always caches latents and encoded captions, by content"
LOGGING = "lorac logs to the terminal, metrics.jsonl and TensorBoard"
RESUME = "a stopped run goes on by the same command"
CHECKPOINTS = "lorac measures what is held out at each checkpoint"
HUB = "lorac neither fetches from nor sends to a hub"
LOADING = "lorac loads what it cached; how fast changes no result"
SECRET = "a secret has no place in a spec"
SAFETENSORS = "lorac writes safetensors"
MASKS = "lorac's masks are alpha, or lie below data.path: set data.mask_path"
PRIOR = 'put them in a folder below data.path, and name it: folders=(Folder("…", prior=True),)'
WEIGHTS = 'put them in a folder of their own, and weigh it: folders=(Folder("…", loss_weight=…),)'
TWO_SIDES = "lorac has one resolution: the side of a square of the same area was carried"

GRID = 8
"""Sides are multiples of this (lorac.spec.GRID)."""

CURVES = get_args(Scheduler)
TO_A_MINIMUM = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")
"""transformers' names of a cosine that ends above zero: `train.min_ratio` says where."""
WITH_NUMBERS = (*TO_A_MINIMUM, "cosine_with_restarts", "warmup_stable_decay")
"""Curves that are said by more than their name."""

_DTYPES = {
    "fp32": ("fp32", "float32", "float_32", "float", "no", "32"),
    "bf16": ("bf16", "bfloat16", "bfloat_16"),
    "fp16": ("fp16", "float16", "float_16", "half", "16"),
}


_WHOLE = {
    "embeddings": ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in"),
    "lm_head": ("lm_head", "output", "embed_out"),
}
"""What transformers' causal models call their ends."""


def dtype(value: Any) -> str:
    """lorac's name of a dtype."""
    for name, theirs in _DTYPES.items():
        if str(value).strip().lower().removeprefix("torch.") in theirs:
            return name
    raise CannotCarry("lorac has fp32, bf16 and fp16")


def scheduler(value: Any) -> str:
    """lorac's name of a learning rate's curve. A warm-up before it is its own field."""
    name = str(value).strip().lower().removeprefix("schedulertype.").replace(" ", "_")
    name = name.removesuffix("_with_warmup")
    if name in TO_A_MINIMUM:
        return "cosine"
    if name in CURVES:
        return name
    raise CannotCarry(f"lorac has {', '.join(CURVES[:-1])} and {CURVES[-1]}; its own default stands")


def set_curve(ledger: Ledger, section: str, name: Path) -> None:
    """The numbers of a curve of transformers' `get_scheduler`, in a section beside its `name`."""
    curve = str(ledger.entries.get(name, "")).strip().lower()
    for path in [path for path in ledger.entries if path[0] == section and len(path) == 2]:
        key, value = path[1], ledger.entries[path]
        if key == "num_cycles" and curve == "cosine_with_restarts":
            ledger.carry("train.cycles", value, path)
        elif key in ("min_lr_rate", "min_lr_ratio"):
            ledger.carry("train.min_ratio", value, path)
        elif key == "num_decay_steps":
            ledger.carry("train.decay_steps", value, path)
        elif key == "power":
            ledger.carry("train.power", value, path)
        elif key == "decay_type" and str(value) == "cosine":
            ledger.ours(path, "as lorac's falls")
        elif key == "min_lr":
            _set_least_rate(ledger, path)


def _set_least_rate(ledger: Ledger, path: Path) -> None:
    """The rate at which a curve ends, as a share of the highest one."""
    try:
        share = number(ledger.entries[path]) / number(ledger.entries.get(("learning_rate",)))
    except (CannotCarry, ZeroDivisionError):
        ledger.left(path, "it is a share of train.learning_rate in lorac: set train.min_ratio")
        return
    ledger.carry("train.min_ratio", share, path)


def also_train(value: Any) -> tuple[str, ...]:
    """What is trained whole, from PEFT's `modules_to_save`: a list of modules, or their names with commas between."""
    said = value if isinstance(value, list) else str(value).split(",")
    last = [str(one).strip().rpartition(".")[2] for one in said]
    found = [word for word, theirs in _WHOLE.items() if {*theirs} & {*last}]
    if other := [name for name in last if not any(name in theirs for theirs in _WHOLE.values())]:
        raise CannotCarry(f"lorac trains embeddings and lm_head whole, not {', '.join(other)}")
    return tuple(found)


def arguments(value: Any) -> dict[str, Any]:
    """`["weight_decay=0.1", "betas=0.9,0.99"]`, or the same in one text, as a mapping. Raises CannotCarry."""
    texts = value.split() if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and "=" in text for text in texts):
        raise CannotCarry("is not a list of name=value")
    found: dict[str, Any] = {}
    for text in texts:
        name, _, words = text.partition("=")
        try:
            found[name.strip()] = ast.literal_eval(words.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[name.strip()] = words.strip()
    return found


def side(value: Any) -> int:
    """The side of the square of a resolution's area, from `512`, `"512"`, `[512, 768]`, `"512,768"`, `"512x768"`."""
    numbers = value if isinstance(value, list | tuple) else str(value).lower().replace("x", ",").split(",")
    if not 1 <= len(numbers) <= 2:
        raise CannotCarry("lorac trains at one resolution")
    sides = [number(one) for one in numbers]
    if not all(math.isfinite(one) and 0 < one < 2**20 for one in sides):
        raise CannotCarry("is no resolution")
    return max(GRID, round(math.prod(sides) ** (1 / len(sides)) / GRID) * GRID)


def is_square(value: Any) -> bool:
    """Whether a resolution is that of squares."""
    numbers = value if isinstance(value, list | tuple) else str(value).lower().replace("x", ",").split(",")
    return len({str(one).strip() for one in numbers}) == 1


def set_side(ledger: Ledger, path: Path) -> None:
    """Carry a resolution; one of two sides is told as changed."""
    value = ledger.entries[path]
    try:
        ledger.carry("data.resolution", side(value), path)
        if not is_square(value):
            ledger.todo.append(f"data.resolution: {value!r} became the side of a square of the same area")
    except CannotCarry as reason:
        ledger.left(path, str(reason))


def set_batch(ledger: Ledger, paths: list[Path], silent: str, times: int = 1) -> None:
    """Batch times accumulation is what the user promised himself; how it is split is the planner's.

    `silent` says whose default 1 is where no key says more; `times` is a batch's size that no key says.
    """
    try:
        product = times * math.prod([max(1, whole(ledger.entries[path])) for path in paths])
    except CannotCarry as reason:
        for path in paths:
            ledger.left(path, f"batch and accumulation: one of them {reason}")
        return
    comment = " * ".join(bare(path).lstrip("-") for path in paths) or silent
    before = ledger.settings.pop("train.effective_batch", None)
    if before:
        product *= before.value
        comment = f"{before.comment} * {comment}" if paths else before.comment
    ledger.carry("train.effective_batch", product, *paths, comment=comment)


def set_targets(ledger: Ledger, path: Path, every: tuple[str, ...]) -> None:
    """A language model's target modules; `every` are the words for all linear layers."""
    value = ledger.entries[path]
    names = [str(one).strip() for one in (value if isinstance(value, list) else str(value).split(","))]
    if set(names) & set(every):
        ledger.carry("adapter.targets", "all-linear", path)
    elif set(names) == {"q_proj", "k_proj", "v_proj", "o_proj"}:
        ledger.carry("adapter.targets", "attention", path)
    elif set(names) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}:
        ledger.carry("adapter.targets", "all-linear", path)
    elif all(re.fullmatch(r"[A-Za-z0-9_.]+", name) for name in names):
        ends = "|".join(re.escape(name) for name in names)
        ledger.carry("adapter.targets", rf"re:(.*\.)?({ends})", path)
    else:
        ledger.left(path, "adapter.targets has all-linear, attention, or a regex of whole names")


def set_place(ledger: Ledger, path: Path) -> None:
    """The folder of one run: its name, in the folder of all runs."""
    text = str(ledger.entries[path]).replace("\\", "/").rstrip("/")
    folder, _, name = text.rpartition("/")
    ledger.carry("name", name, path)
    if folder:
        ledger.carry("outputs.output_dir", folder, path)


def settle_clip_skip(ledger: Ledger, path: Path, off: tuple[Any, ...] = (*OFF, 1)) -> None:
    """Where the family says which layer its towers are read at, no other is carried."""
    known = ledger.settings.get("base.family")
    if known is None or path not in ledger.entries or is_off(ledger.entries[path], off):
        return
    from runtime.families import family  # torch comes with it

    of = family(known.value)
    if not of.CLIP_SKIP:
        ledger.left(path, f"which layer a {of.TITLE} reads is fixed in lorac")


def set_saving(ledger: Ledger) -> None:
    """transformers' `save_strategy`: by epochs, `save_steps` counts for nothing."""
    path: Path = ("save_strategy",)
    said = str(ledger.entries.get(path, "steps")).lower()
    if said == "epoch":
        ledger.carry("outputs.save_epochs", 1, path)
    elif said == "no":
        ledger.ours(path, "at the end only, as in lorac")
    if said in ("epoch", "no") and ("save_steps",) in ledger.entries:
        ledger.ours(("save_steps",), f"save_strategy {said} overrules it")


def set_warmup_share(ledger: Ledger, path: Path) -> None:
    """A share of all steps; in steps, as trainers round it, where their number is known."""
    steps = ledger.settings.get("train.steps")
    try:
        share = number(ledger.entries[path])
    except CannotCarry as reason:
        ledger.left(path, str(reason))
        return
    if share == 0:
        ledger.ours(path, "no warm-up, as in lorac")
    elif steps and 0 < share < 1:
        ledger.carry("train.warmup_steps", int(share * steps.value), path)
    elif 0 < share < 1:
        ledger.carry("train.warmup_ratio", share, path)
    else:
        ledger.refuse("train.warmup_ratio", path, "a share of the steps is between 0 and 1")
