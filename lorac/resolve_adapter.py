"""What a spec's adapter is on a base: which modules it adapts, and every number of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
import torch

from lorac import spec
from lorac.agree import trains_text_encoder
from lorac.parts import at_field, preferred, spec_place
from runtime import names, plan
from runtime.adapters import adaptable, method, words
from runtime.errors import Problem, SpecError

if TYPE_CHECKING:
    from runtime.families.protocol import Family


def adapter_of(experiment: spec.Experiment, of: Family, base: plan.Base) -> plan.Adapter:
    """The trained part on this base, with nothing left open but the rank. Raises SpecError."""
    wanted = experiment.adapter
    trains_text = trains_text_encoder(experiment)
    preset = next(iter(of.PRESETS)) if isinstance(wanted.targets, spec.Auto) else wanted.targets
    if preset not in of.PRESETS and not preset.startswith("re:"):
        words = ", ".join(f'"{word}"' for word in of.PRESETS)
        what = f'adapter.targets must be {words} or "re:…" for a {of.TITLE}, got "{preset}"'
        raise SpecError(Problem(spec_place(wanted, "targets"), what, "or leave it out"))
    if trains_text and not of.TRAINED_TEXT_ENCODERS:
        what = f"adapter.text_encoder: a {of.TITLE} has its captions encoded once, before the first step"
        raise SpecError(Problem(spec_place(wanted, "text_encoder"), what, "leave it out"))
    with at_field(wanted, "targets"):
        targets = of.targets(base.architecture, preset, trains_text)
    modules = {}
    for component, pattern in targets.items():
        with torch.device("meta"):
            built = of.build(base.architecture, component)
        modules[component] = len(adaptable(built, pattern, method(wanted.METHOD)))
    missed = [component for component, count in modules.items() if not count]
    if missed:
        where = spec_place(wanted, "targets")
        raise SpecError(
            Problem(where, f"adapter.targets {wanted.targets} matches no module of the {name}")
            for name in missed
        )
    also = getattr(wanted, "also_train", ())
    with at_field(wanted, "also_train"):
        whole = of.modules_to_save(base.architecture, also) if also else {}
    adapter = attrs.evolve(
        _trained(wanted, of.KIND, targets, modules), modules_to_save=whole, **_words(experiment, of, base)
    )
    if not set(of.EXPORTS) & set(method(adapter.method).files(adapter)):
        what = f"adapter: no program reads a {of.TITLE}'s {method(adapter.method).TITLE}"
        raise SpecError(Problem(spec_place(wanted, "targets"), what, "train a LoRA(…)"))
    return adapter


def _words(experiment: spec.Experiment, of: Family, base: plan.Base) -> dict[str, Any]:
    """The words that get vectors of their own, and where. Raises SpecError."""
    wanted: tuple[spec.TextualInversion, ...] = getattr(experiment.adapter, "words", ())
    if not wanted:
        return {}
    if not of.WORD_FILES:
        what = f"adapter.words: a {of.TITLE} has no text encoder in which a word could learn"
        hint = "leave it out: Stable Diffusion 1, 2 and XL have some"
        raise SpecError(Problem(spec_place(experiment.adapter, "words"), what, hint))
    rate = experiment.train.learning_rate
    return {
        "words": tuple(
            plan.Word(
                word=one.word,
                initial=one.initial.strip() or names.of_word(one.word),
                vectors=one.vectors,
                learning_rate=float(rate if isinstance(one.learning_rate, spec.Auto) else one.learning_rate),
            )
            for one in wanted
        ),
        "word_embeddings": {encoder: _embedding(of, base, encoder) for encoder in of.WORD_FILES},
    }


def _embedding(of: Family, base: plan.Base, encoder: str) -> str:
    """Where a text encoder's token embedding is in it."""
    with torch.device("meta"):
        built: Any = of.build(base.architecture, encoder)
    embedding = built.get_input_embeddings()
    return next(path for path, module in built.named_modules() if module is embedding)


def _trained(wanted: Any, kind: str, targets: dict[str, str], modules: dict[str, int]) -> plan.Adapter:
    """The adapter as the spec has it; a field that its method has not has the value that means off."""
    rank = preferred(wanted.rank) if hasattr(wanted, "rank") else 0
    alpha, factor = getattr(wanted, "alpha", spec.Auto()), getattr(wanted, "factor", spec.Auto())
    ranks, alphas = dict(getattr(wanted, "ranks", ())), dict(getattr(wanted, "alphas", ()))
    if isinstance(alpha, spec.Auto):
        alphas = {**ranks, **alphas}
    return plan.Adapter(
        method=wanted.METHOD,
        rank=rank,
        alpha=float(rank) if isinstance(alpha, spec.Auto) else float(alpha),
        init=getattr(wanted, "init", "kaiming"),
        targets=targets,
        modules=modules,
        rslora=getattr(wanted, "rslora", False),
        dora=getattr(wanted, "dora", False),
        magnitudes="columns" if kind == "images" and getattr(wanted, "dora", False) else "rows",
        factor=-1 if isinstance(factor, spec.Auto) else factor,
        ranks=tuple(plan.RankOf(pattern=pattern, rank=value) for pattern, value in ranks.items()),
        alphas=tuple(plan.AlphaOf(pattern=pattern, alpha=float(value)) for pattern, value in alphas.items()),
        dropout=float(getattr(wanted, "dropout", 0.0)),
        rank_dropout=float(getattr(wanted, "rank_dropout", 0.0)),
        module_dropout=float(getattr(wanted, "module_dropout", 0.0)),
    )


def check_words(experiment: spec.Experiment, adapter: plan.Adapter, data: plan.Images) -> None:
    """Raise SpecError for words that no caption has: nothing of them would be learned."""
    captions = [item.caption for item in data.items]
    silent = [
        one
        for one, word in zip(getattr(experiment.adapter, "words", ()), adapter.words, strict=True)
        if not any(re.search(words.pattern(word.word), caption, re.IGNORECASE) for caption in captions)
    ]
    hint = "put it into the captions, or set Images(trigger=…, prepend_trigger=True)"
    if silent:
        raise SpecError(
            Problem(spec_place(one, "word"), f"adapter.words: no caption has {one.word!r} as a word", hint)
            for one in silent
        )
