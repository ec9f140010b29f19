"""Values that a spec takes and values that it refuses, made from the rules that its errors are made from.

`experiments()` draws whole experiments: every field within its rule, and the fields in agreement. A part can
be fixed: `experiments(base=just(Base("…")))`. `wrong_values(rule)` draws what a field must refuse.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import attrs
import numpy as np
from hypothesis import strategies as st

from lorac.agree import OF_PICTURES, OF_STILL_PICTURES
from lorac.rules import UNSHOWN, Rule
from lorac.spec import (
    ADAPTERS,
    TEXTS,
    AdamW,
    Answers,
    Auto,
    Base,
    Evaluation,
    Experiment,
    Fit,
    Folder,
    Images,
    LoRA,
    Outputs,
    Prodigy,
    Samples,
    ScheduleFreeAdamW,
    Sequences,
    TextualInversion,
    Train,
)
from lorac.spec_optimizers import OTHERS as OTHER_OPTIMIZERS
from runtime import names

OPTIMIZERS = (AdamW, *OTHER_OPTIMIZERS)
PARTS = (
    Base,
    Folder,
    Images,
    *TEXTS,
    Sequences,
    TextualInversion,
    LoRA,
    *ADAPTERS,
    *OPTIMIZERS,
    Train,
    Fit,
    Samples,
    Answers,
    Evaluation,
    Outputs,
    Experiment,
)
FIELDS = [(part, field) for part in PARTS for field in attrs.fields(part)]
"""Every field of a spec with its part."""
IDS = [f"{part.__name__}.{field.name}" for part, field in FIELDS]

LINE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12).filter(
    lambda text: not UNSHOWN.search(text)
)
SMALL_BATCH = 4


def is_regex(text: str) -> bool:
    """Whether `re:…` holds a regular expression."""
    try:
        re.compile(text.removeprefix("re:"))
    except re.error:
        return False
    return True


# -------------------------------------------------------------------------------- what is taken


def values(rule: Rule) -> st.SearchStrategy[Any]:
    """What a field of this rule takes, None and Auto where it takes them."""
    one = plain_values(rule)
    if rule.keyed:
        one = st.dictionaries(st.sampled_from([".*to_q", "model.layers.0", "(q|k)_proj"]), one, max_size=2)
    if rule.many and not rule.others:
        one = st.lists(one, max_size=3) | st.lists(one, max_size=3).map(tuple)
    if rule.none:
        one |= st.none()
    if rule.auto != "no":
        one |= autos(rule)
    return one


def plain_values(rule: Rule) -> st.SearchStrategy[Any]:
    """What a field of this rule takes, in its own type."""
    if rule.choices or rule.regex:
        words = [st.sampled_from(rule.choices)] if rule.choices else []
        if rule.regex:
            ascii_only = st.characters(codec="ascii")
            made = st.from_regex(re.compile(rule.regex, re.ASCII), fullmatch=True, alphabet=ascii_only)
            words.append(made.filter(str.isprintable).filter(is_regex if rule.choices else bool))
        return st.one_of(words)
    if rule.type is int:
        return whole_numbers(rule)
    if rule.type is float:
        whole = [int(edge) for edge in (rule.ge, rule.le) if edge is not None]
        return numbers(rule) | (st.sampled_from(whole) if whole else st.nothing())
    if rule.type is bool:
        return st.booleans()
    if rule.type is str:
        return LINE
    if rule.type.__name__ == "PurePath":
        names = LINE.filter(str.strip)
        return names | names.map(PurePosixPath).filter(lambda path: str(path).strip())  # "./ " is " "
    return st.one_of([parts(cls) for cls in (rule.type, *rule.others)])


def whole_numbers(rule: Rule) -> st.SearchStrategy[int]:
    """Whole numbers in the rule's range."""
    step = rule.multiple_of or 1
    assert rule.ge is not None and rule.le is not None, "every whole number of a spec has two bounds"
    return st.integers(-(-int(rule.ge) // step), int(rule.le) // step).map(lambda n: n * step)


def numbers(rule: Rule) -> st.SearchStrategy[float]:
    """Finite numbers in the rule's range."""
    low, high = (rule.ge if rule.ge is not None else rule.gt), (rule.le if rule.le is not None else rule.lt)
    assert low is not None and high is not None, "every number of a spec has two bounds"
    return st.floats(
        float(low),
        float(high),
        exclude_min=rule.gt is not None,
        exclude_max=rule.lt is not None,
        allow_subnormal=False,
    )


@st.composite
def autos(draw: st.DrawFn, rule: Rule) -> Auto:
    """`Auto` as a field of this rule takes it."""
    if rule.auto == "open" or draw(st.booleans()):
        return Auto()
    if rule.auto == "choice":
        return Auto(choices=tuple(draw(st.lists(st.sampled_from(rule.choices), min_size=1, unique=True))))
    low, prefer, high = sorted(draw(st.tuples(*[whole_numbers(rule)] * 3)))
    return draw(
        st.sampled_from([Auto(low, high, prefer=prefer), Auto(low, high), Auto(low), Auto(high=high)])
    )


@st.composite
def parts(draw: st.DrawFn, cls: type, /, **fixed: st.SearchStrategy[Any]) -> Any:
    """A part with some of its fields given, the given ones in agreement."""
    given = {}
    for field in attrs.fields(cls):
        if field.name in fixed:
            given[field.name] = draw(fixed[field.name])
        elif field.default is attrs.NOTHING or draw(st.booleans()):
            given[field.name] = draw(values(field.metadata["rule"]))
    return cls(**agreeing(cls, given))


def agreeing(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """Keywords of a part changed where its fields would contradict each other."""
    if cls is Images:
        side = given.get("resolution", 512)
        if isinstance(given.get("min_bucket"), int):
            given["min_bucket"] = min(given["min_bucket"], side)
        if isinstance(given.get("max_bucket"), int):
            given["max_bucket"] = max(given["max_bucket"], side)
        given["prepend_trigger"] = bool(given.get("prepend_trigger") and given.get("trigger", "").strip())
    if given.get("words"):
        given["words"] = [attrs.evolve(one, word=f"w{place}") for place, one in enumerate(given["words"])]
    if cls is LoRA and given.get("dora"):
        given |= {"rank_dropout": 0.0, "module_dropout": 0.0, "init": "kaiming"}
    if cls is Fit and given.get("shard"):
        given |= {"shard": given.get("processes", 1) > 1, "quantization": "none", "offload": Auto()}
    if cls is Images:
        _of_its_masks_and_tags(given)
    if cls is Folder and given.get("prior"):
        given.pop("repeats", None)
    if cls is Train:
        if given.get("steps") is not None:
            given.pop("epochs", None)
            given["warmup_steps"] = min(given.get("warmup_steps", 0), given["steps"])
        elif given.get("epochs") is None:
            given.pop("epochs", None)
        if given.get("warmup_steps"):
            given.pop("warmup_ratio", None)
        _of_its_optimizer(given)
        _of_its_loss(given)
        _of_its_curve(given)
    if cls is Outputs and given.get("save_steps"):
        given.pop("save_epochs", None)
    if cls is Samples and len(given.get("references", ())) not in (0, len(given.get("prompts", ()))):
        given["prompts"] = ["a prompt"] * len(given["references"])
    if cls is Experiment and "adapter" in given and "fit" in given and trains_text_encoder(given):
        fit = given["fit"]
        given["fit"] = attrs.evolve(fit, offload=Auto() if fit.offload == "text_encoder" else fit.offload)
    if cls is Experiment and not isinstance(given.get("train", Train()).optimizer, AdamW) and "fit" in given:
        given["fit"] = attrs.evolve(given["fit"], optimizer_bits=32)
    if cls is Experiment:
        _of_one_kind(given)
        if isinstance(given.get("train", Train()).optimizer, Prodigy) and hasattr(
            given.get("adapter"), "words"
        ):
            words = [attrs.evolve(one, learning_rate=Auto()) for one in given["adapter"].words]
            given["adapter"] = attrs.evolve(given["adapter"], words=words)
        if "adapter" in given and "fit" in given and getattr(given["adapter"], "init", "") == "pissa":
            given["fit"] = attrs.evolve(given["fit"], quantization="none")
        if not isinstance(given.get("adapter", LoRA()), LoRA) and "train" in given:
            given["train"] = attrs.evolve(given["train"], lora_plus_ratio=1.0)
        _of_what_is_held_out(given)
    if cls in (Samples, Answers) and not given.get("prompts"):
        given.pop("every", None)
        given.pop("every_epochs", None)
    if cls in (Samples, Answers) and isinstance(given.get("every"), int):
        given.pop("every_epochs", None)
    return given


def _of_its_masks_and_tags(given: dict[str, Any]) -> None:
    """Folders below the data's, masks of one kind, and tags that move."""
    if given.get("frames", 1) > 1:
        for field in OF_STILL_PICTURES:
            given.pop(field, None)
    folders = enumerate(given.get("folders", ()))
    given["folders"] = tuple(attrs.evolve(folder, path=f"folder {place}") for place, folder in folders)
    if given.get("mask_path") is not None:
        given["mask_path"] = None if given.get("alpha_mask") else "masks"
    if not given.get("alpha_mask") and given.get("mask_path") is None:
        given.pop("unmasked_weight", None)
    if not given.get("shuffle_tags") and not given.get("tag_dropout"):
        given.pop("keep_tags", None)


def _of_its_loss(given: dict[str, Any]) -> None:
    """One weighting, and a threshold where the loss has one."""
    if given.get("snr_gamma") is not None:
        given.pop("debiased", None)
    if given.get("loss") not in ("huber", "smooth_l1"):
        for field in ("huber_schedule", "huber_c"):
            given.pop(field, None)


def _of_its_curve(given: dict[str, Any]) -> None:
    """A curve's numbers beside it alone."""
    curve = given.get("scheduler", "constant")
    if curve != "cosine_with_restarts":
        given.pop("cycles", None)
    if curve == "constant":
        given.pop("min_ratio", None)
    if curve != "warmup_stable_decay":
        for field in ("decay_steps", "decay_ratio"):
            given.pop(field, None)
        return
    if given.get("decay_ratio"):
        given.pop("decay_steps", None)
    elif not given.get("decay_steps"):
        given["decay_ratio"] = 0.2
    elif given.get("steps") is not None:
        given["decay_steps"] = max(1, min(given["decay_steps"], given["steps"]))
        given["warmup_steps"] = min(given.get("warmup_steps", 0), given["steps"] - given["decay_steps"])


def _of_its_optimizer(given: dict[str, Any]) -> None:
    """A rate and a schedule as the optimizer takes them."""
    optimizer = given.get("optimizer", AdamW())
    if isinstance(optimizer, Prodigy):
        for field in ("text_encoder_learning_rate", "lora_plus_ratio"):
            given.pop(field, None)
        given["learning_rate"] = max(given.get("learning_rate", 1.0), 0.1)
    if isinstance(optimizer, ScheduleFreeAdamW):
        for field in ("scheduler", "ema"):
            given.pop(field, None)


def trains_text_encoder(given: dict[str, Any]) -> bool:
    """Whether the adapter that is given has the text encoder trained, or words in it."""
    return any(getattr(given["adapter"], field, None) for field in ("text_encoder", "words"))


def _of_one_kind(given: dict[str, Any]) -> None:
    """Pictures are drawn, text is asked."""
    if isinstance(given["data"], Images):
        given.pop("sequences", None)
    if isinstance(given.get("samples", Samples()), Samples) != isinstance(given["data"], Images):
        given.pop("samples", None)
    if isinstance(given.get("samples"), Answers) and not given["samples"].prompts:
        given.pop("samples")
    is_text = not isinstance(given["data"], Images)
    foreign = {
        "adapter": {"text_encoder": False, "words": ()} if is_text else {"also_train": ()},
        "train": {
            **{field: getattr(Train(), field) for field in OF_PICTURES},
            "text_encoder_learning_rate": Auto(),
            "huber_schedule": Auto(),
            "huber_c": 0.1,
        }
        if is_text
        else {"neftune_alpha": None},
        "outputs": {} if is_text else {"gguf": False},
    }
    for name, fields in foreign.items():
        if name in given:
            known = {field.name for field in attrs.fields(type(given[name]))}
            own = {field: value for field, value in fields.items() if field in known}
            given[name] = attrs.evolve(given[name], **own)


def _of_what_is_held_out(given: dict[str, Any]) -> None:
    """Nothing is asked of what is not held out."""
    data = given["data"]
    held = data.held_out if isinstance(data, Images) else given.get("sequences", Sequences()).held_out
    if not held or not given.get("outputs", Outputs()).save_steps:
        given.pop("evaluation", None)


@st.composite
def experiments(draw: st.DrawFn, **fixed: st.SearchStrategy[Any]) -> Experiment:
    """A valid experiment; keyword arguments are strategies for its own fields."""
    micro, accumulation, processes = (draw(st.integers(1, SMALL_BATCH)) for _ in range(3))
    batch: dict[str, st.SearchStrategy[Any]] = {
        "micro_batch": _around(micro),
        "accumulation": _around(accumulation),
        "processes": st.just(processes),
    }
    train = parts(Train, effective_batch=st.just(micro * accumulation * processes))
    name = plain_values(attrs.fields_dict(Experiment)["name"].metadata["rule"])
    made = {
        "name": name.filter(lambda text: not names.wrong(text)),
        "train": train,
        "fit": parts(Fit, **batch),
    }
    return draw(parts(Experiment, **{**made, **fixed}))


def _around(number: int) -> st.SearchStrategy[Any]:
    """A field that allows this number: pinned, bounded, or open."""
    return st.sampled_from(
        [number, Auto(), Auto(number, number), Auto(1, SMALL_BATCH), Auto(number, prefer=number)]
    )


# -------------------------------------------------------------------------------- what is refused


def wrong_values(rule: Rule) -> st.SearchStrategy[Any]:
    """What a field of this rule must refuse: of the wrong type, or of the right one and out of range."""
    wrong = [st.builds(object), st.just(type(None)), st.just(b"bytes"), st.just({"a": 1})]
    if not rule.none:
        wrong.append(st.none())
    if rule.auto == "no":
        wrong.append(st.just(Auto()))
    elif rule.auto == "range":
        wrong.append(st.just(Auto(choices=("a",))))
        wrong.append(
            out_of_range(rule).filter(lambda bound: bound > rule.ge).map(lambda bound: Auto(1, bound))
        )
    elif rule.auto == "choice":
        wrong += [st.just(Auto(1, 2)), st.just(Auto(choices=("no such word",)))]
    else:
        wrong += [st.just(Auto(1)), st.just(Auto(choices=("a",)))]
    one = st.one_of(wrong_plain_values(rule))
    if rule.keyed:
        wrong += [
            one.map(lambda value: {"a": value}),
            plain_values(rule),
            plain_values(rule).map(lambda v: {1: v}),
        ]
        return st.one_of(*wrong[:3], *wrong[4:])
    if rule.many:
        right = st.lists(plain_values(rule), max_size=2)
        within = st.tuples(right, one, right).map(lambda t: (*t[0], t[1], *t[2]))
        return st.one_of(*wrong, within, within.map(list), st.just("a text"), st.just({"a text"}))
    return st.one_of(*wrong, one)


def wrong_plain_values(rule: Rule) -> list[st.SearchStrategy[Any]]:
    """What is wrong for the rule's own type."""
    if rule.type in (int, float):
        like = [
            True,
            False,
            "8",
            "1e-4",
            np.int64(8),
            np.float64(0.5),
            np.float32(0.5),
            complex(1),
            [8],
            (0.5,),
        ]
        out = [st.sampled_from(like), st.sampled_from([float("nan"), float("inf"), float("-inf")])]
        out.append(st.just(3.7) if rule.type is int else out_of_range(rule))
        out.append(st.integers(10**400, 10**401))
        return [*out, st.just(3) if rule.choices else out_of_range(rule)]
    if rule.type is bool:
        return [st.sampled_from([0, 1, "True", "false", np.bool_(True), 0.0])]
    if rule.choices or rule.regex:
        return [
            st.sampled_from(["", " ", "no such word!", "re:", " fp16", "\u00e9", 0, True, np.str_("auto")])
        ]
    if rule.type is str or rule.type.__name__ == "PurePath":
        bad = [
            "\x00",
            "a\x1b[31m",
            "\ud800",
            "bell\a",
            "\u202e",
            "x" * (rule.longest + 1),
            7,
            1.5,
            True,
            np.str_("a"),
        ]
        bad += [] if rule.lines else ["two\nlines"]
        bad += [""] if rule.type is not str else []
        return [st.sampled_from(bad)]
    return [st.sampled_from([7, "" if not rule.lift else 7, True, LoRA if rule.type is not LoRA else Train])]


def out_of_range(rule: Rule) -> st.SearchStrategy[Any]:
    """Numbers beyond one of the rule's bounds, and whole ones between two multiples."""
    low, high = (rule.ge if rule.ge is not None else rule.gt), (rule.le if rule.le is not None else rule.lt)
    assert low is not None and high is not None
    if rule.type is float:
        edges = [float(low)] * (rule.gt is not None) + [float(high)] * (rule.lt is not None)
        beyond = st.floats(max_value=low - 1e-6, allow_infinity=False) | st.floats(
            min_value=high + 1e-6, allow_infinity=False
        )
        return beyond | st.sampled_from(edges) if edges else beyond
    beyond_whole = st.integers(max_value=int(low) - 1) | st.integers(min_value=int(high) + 1)
    if not rule.multiple_of:
        return beyond_whole
    return beyond_whole | whole_numbers(rule).map(lambda n: n + 1)
