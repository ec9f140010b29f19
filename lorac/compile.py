"""Spec -> plan: resolve, search, assemble, hash.

A finished plan is kept by content: the experiment, the files of its base and its data, the card, the package versions
and our own code. Asked again, it comes back without torch being loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from lorac import spec
from lorac.agree import sets_of
from lorac.estimate import cards
from lorac.parts import at_field
from lorac.places import GGUF, TEXT_PACKAGES, cache_folder, code_digest, versions
from runtime import compiler, plan
from runtime.errors import PlanError
from runtime.safeio import digest, strict_json

if TYPE_CHECKING:
    from lorac.estimate.cards import Card


def compile_experiment(
    experiment: spec.Experiment,
    root: Path,
    spec_dir: Path,
    card: str | None = None,
    unlocked: bool = False,
    tell: Callable[[str], None] = lambda words: None,
) -> plan.Plan:
    """Compile an experiment for a card (default: the spec's `fit.card`).

    `root` is the folder that lorac runs in; the spec's paths are relative to `spec_dir`; `tell` hears
    what is being done. Raises SpecError, InputError (base or data) and MachineError (nothing fits).
    """
    found = cards.share(_card(experiment, card), experiment.fit.processes)
    tell("hashing the base and the data")
    path = cache_folder() / "plans" / f"{_question(experiment, root, spec_dir, found, unlocked)}.json"
    kept = _kept(path)
    if kept is not None:
        return kept
    made = _compile(experiment, root, spec_dir, found, unlocked, tell)
    plan.write(made, path)
    return made


def _compile(
    experiment: spec.Experiment,
    root: Path,
    spec_dir: Path,
    card: Card,
    unlocked: bool,
    tell: Callable[[str], None],
) -> plan.Plan:
    tell("loading torch")
    from lorac.estimate.cost import Costs
    from lorac.resolve import resolve
    from lorac.search import fit

    tell("reading the base and the data")
    resolved = resolve(experiment, root, spec_dir, card, unlocked)
    costs = Costs(card, cache_folder(), resolved.outputs, resolved.lengths, tell)
    fitted = fit(resolved, costs)
    cost, train, encoded = fitted.cost, fitted.program.train, costs.encoded(fitted.program)
    estimate = plan.Estimate(
        card=card.name,
        card_bytes=card.memory,
        usable_bytes=card.usable,
        peak_bytes=cost.peak_bytes,
        by_kind=cost.peak_kinds,
        phases=cost.phases,
        fallback_bytes=fitted.fallback_bytes,
        host_bytes=cost.host_bytes,
        disk_bytes=written_bytes(cost.disk_bytes, fitted.program, fitted.outputs) + encoded,
        cache_bytes=encoded,
        seconds_per_step=cost.seconds_per_step,
        seconds=cost.seconds_in_all(train.steps),
        compile_seconds=cost.compile_seconds,
        decisions=resolved.decisions + fitted.decisions,
        rejected=fitted.rejected,
    )
    return plan.make(fitted.program, fitted.outputs, estimate)


def _card(experiment: spec.Experiment, overruled: str | None) -> Card:
    """The card that the call names, or the spec: what is wrong with the spec's is told at its own line."""
    if overruled is not None:
        return cards.find(overruled)
    with at_field(experiment.fit, "card"):
        return cards.find(experiment.fit.card)


MAY_BE_EXPORTED = 2
"""Checkpoints that are kept beside the newest where the best is chosen: the chosen one and the lowest."""


def written_bytes(checkpoint: int, program: plan.Program, outputs: plan.Outputs) -> int:
    """Bytes that a run leaves in its folder, from one checkpoint's: checkpoints, exports, pictures.

    While a checkpoint is written, one more than is kept is there; the exports, which come after the last one, are two
    files of the LoRA and take less than that one. A picture takes no more than its pixels, in its file and in
    TensorBoard's.
    """
    steps, chooses = program.train.steps, program.evaluation != plan.Evaluation()
    saved = -(-steps // outputs.save_steps) if outputs.save_steps else 1
    # The checkpoint to go back to may be a third one, and with it those that might have been exported then.
    kept = max(2, outputs.keep_checkpoints) + (2 * MAY_BE_EXPORTED if chooses else 0)
    checkpoints = checkpoint * (min(saved, kept) + 1)
    samples = outputs.samples
    if isinstance(samples, plan.Answers):
        return checkpoints
    drawn = (steps // samples.every if samples.every else 0) + 2
    pictures = drawn * len(samples.prompts) * samples.width * samples.height * 3
    return checkpoints + 2 * pictures


def _question(experiment: spec.Experiment, root: Path, folder: Path, card: Card, unlocked: bool) -> str:
    """sha256 of all that a plan depends on."""
    given = sets_of(experiment)
    base = folder / experiment.base.path
    beside = base.parent.glob("tokenizer*") if base.is_file() else ()  # what a single file may leave there
    elsewhere = (place for one in experiment.base.parts for place in _of_part(folder / one))
    places = [base, *beside, *elsewhere, *(folder / one.path for one in given)]
    places += [
        folder / one.metadata_path
        for one in given
        if isinstance(one, spec.Images) and one.metadata_path is not None
    ]
    hashes = digest.DigestCache(cache_folder()).sha256_files(sorted(_files(places)))
    question: dict[str, Any] = {
        "code": code_digest(),
        "versions": versions(*set(plan.PACKAGES.values()), *TEXT_PACKAGES, GGUF),
        "numpy": version("numpy"),
        "compiler": compiler.version(),
        "experiment": _plain(experiment),
        "card": _plain(card),
        "unlocked": unlocked,
        "root": str(root.resolve()),
        "folder": str(folder.resolve()),
        "files": {str(path): sha256 for path, sha256 in hashes.items()},
    }
    return strict_json.sha256(question)


def _of_part(place: Path) -> Iterable[Path]:
    """A part's file; of a folder only what may be a vocabulary: the rest of a base may be in it, too."""
    if not place.is_dir() or (place / "tokenizer_config.json").is_file():
        return [place]
    return place.glob("tokenizer*")


def _files(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        if place.is_file():
            yield place
        elif place.is_dir():
            yield from (path for path in place.rglob("*") if path.is_file())


def _plain(value: Any) -> Any:
    """Attrs objects as JSON data, each with its class's name: Auto(4) is not LoRA(4)."""
    if attrs.has(type(value)):
        fields = {a.name: _plain(getattr(value, a.name)) for a in attrs.fields(type(value))}
        return {"": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _kept(path: Path) -> plan.Plan | None:
    """A plan made before; None if there is none, or it is damaged (it is made anew)."""
    if not path.is_file():
        return None
    try:
        return plan.read(path)
    except PlanError:
        return None
