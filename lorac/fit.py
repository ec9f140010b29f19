"""One experiment, many cards: the best plan of each, and by how much it misses where nothing fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from lorac.agree import sets_of
from lorac.compile import compile_experiment
from lorac.estimate import cards
from lorac.load import Loaded
from runtime import plan
from runtime.errors import DoesNotFit, Problem, SpecError


@attrs.frozen(kw_only=True)
class Row:
    """The best plan for a card. Where nothing fits, `peak_bytes` is the least found, and what was not decided is
    None; `why` then says what would help. `length` is a sequence's tokens, where the data are no pictures. `offloaded`
    counts the blocks whose frozen weights wait in the computer's memory."""

    name: str
    card: str
    fits: bool
    resolution: int | None
    length: int | None
    rank: int | None
    micro_batch: int | None
    accumulation: int | None
    effective_batch: int
    checkpointed: int | None
    offloaded: int | None
    quantization: plan.Quantization | None
    peak_bytes: int
    usable_bytes: int
    seconds: float | None
    why: str = ""


def fit(
    loaded: Sequence[Loaded],
    names: Sequence[str],
    root: Path,
    unlocked: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """A row for each experiment and card, in the order given; `tell` hears what is planned next.

    Raises SpecError (with all unknown cards at once) and InputError.
    """
    check(names)
    rows = []
    for one in loaded:
        for name in names:
            tell(f"planning {one.experiment.name} for {name}")
            rows.append(row(one, name, root, unlocked))
    return rows


def check(names: Sequence[str]) -> None:
    """Raises SpecError with every card that is not known."""
    problems: list[Problem] = [] if names else [Problem("cards", "no card is named", "--cards 8GB,12GB,24GB")]
    for name in names:
        try:
            cards.find(name)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)


def row(one: Loaded, card: str, root: Path, unlocked: bool) -> Row:
    """The best plan of one experiment for one card."""
    experiment = one.experiment
    try:
        made = compile_experiment(experiment, root, one.path.parent, card=card, unlocked=unlocked)
    except DoesNotFit as error:
        return Row(
            name=experiment.name,
            card=card,
            fits=False,
            resolution=_resolution(sets_of(experiment)[0]),
            length=None if _resolution(sets_of(experiment)[0]) else experiment.sequences.length,
            rank=None,
            micro_batch=None,
            accumulation=None,
            effective_batch=experiment.train.effective_batch,
            checkpointed=None,
            offloaded=None,
            quantization=None,
            peak_bytes=error.peak_bytes,
            usable_bytes=error.usable_bytes,
            seconds=None,
            why=error.problems[0].hint,
        )
    return of_plan(made, card)


def _resolution(data: object) -> int | None:
    """The pictures' resolution; None for text."""
    return getattr(data, "resolution", None)


def of_plan(made: plan.Plan, card: str) -> Row:
    """What a plan decided."""
    program, estimate = made.program, made.estimate
    return Row(
        name=made.outputs.name,
        card=card,
        fits=True,
        resolution=_resolution(program.data),
        length=program.data.length if isinstance(program.data, plan.Texts) else None,
        rank=program.adapter.rank,
        micro_batch=program.train.micro_batch,
        accumulation=program.train.accumulation,
        effective_batch=program.train.effective_batch,
        checkpointed=len(program.compute.checkpointed),
        offloaded=len(plan.blocks_away(program.compute)),
        quantization=program.compute.quantization,
        peak_bytes=estimate.peak_bytes,
        usable_bytes=estimate.usable_bytes,
        seconds=estimate.seconds,
    )
