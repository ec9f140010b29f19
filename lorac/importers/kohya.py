"""kohya's sd-scripts: the TOML of `--config_file`, with the TOML of `--dataset_config`, or that one alone.

Names and defaults: library/train_util.py, train_network.py, networks/lora.py and docs/config_README-en.md of
kohya-ss/sd-scripts at 48d368f.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import kohya_data, optimizers
from lorac.importers.kohya_keys import KEYS, assume_noise, settle_hanging
from lorac.importers.ledger import (
    CannotCarry,
    Draft,
    Ledger,
    Path,
    Table,
    To,
    bare,
    is_off,
    is_on,
    ledger,
    number,
)
from lorac.importers.words import TO_A_MINIMUM, arguments, scheduler, set_batch, set_side
from lorac.spec import Adafactor, AdamW

TITLE = "kohya sd-scripts' TOML"

FAMILIES = {"networks.lora_flux": "flux1", "networks.lora_sd3": "sd3"}
"""Families that a network module says by itself; networks.lora serves SD 1, 2 and SDXL."""

LORA = ("networks.lora", *FAMILIES)
PARTS = ("clip_l", "clip_g", "t5xxl", "ae")
"""Files that a transformer's own has not: flux_train_network.py, sd3_train_network.py."""

RATE = 2e-6
"""learning_rate where nothing is said."""
STEPS = 1600
"""max_train_steps where nothing is said."""


def recognise(config: Any) -> bool:
    if not isinstance(config, Mapping):
        return False
    if kohya_data.recognise(config):
        return True
    names = set(named(ledger(config)))
    training = {"pretrained_model_name_or_path", "train_data_dir", "dataset_config", "train_batch_size"}
    return bool(names & {"network_module", "network_dim"} and names & training) and "LoRA_type" not in names


def companions(config: Any) -> dict[str, str]:
    found = named(ledger(config))
    name = found.get("dataset_config")
    return {"dataset_config": name[1]} if name and isinstance(name[1], str) and name[1] else {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    if kohya_data.recognise(config):
        book = ledger(config)
        kohya_data.settle(book, config, ())
        book.todo.append("base: a dataset's TOML names no base, and says nothing of the training")
        return book.draft()
    book = ledger(config)
    keys = named(book)
    dataset = companions.get("dataset_config")
    if isinstance(dataset, Mapping):
        book.entries |= ledger(dataset, ("dataset_config",)).entries
        kohya_data.settle(book, dataset, ("dataset_config",))
    train(book, keys)
    return book.draft()


Named = dict[str, tuple[Path, Any]]


def named(book: Ledger) -> Named:
    """The keys by their bare names: sd-scripts puts all sections of its TOML into one namespace."""
    return {bare(path): (path, value) for path, value in book.entries.items()}


def train(book: Ledger, keys: Named, more: Table | None = None) -> None:
    """Settle every key of a training, and what sd-scripts takes where they are silent."""
    _parts(book, keys)
    _dataset(book, keys)
    _layer(book, keys)
    _length(book, keys)
    _batch(book, keys)
    _optimizer(book, keys)
    _rates(book, keys)
    _schedule(book, keys)
    _network(book, keys)
    _drawing(book, keys)
    if (size := keys.get("resolution")) and size[0] in set(book.open()) and is_on(size[1]):
        set_side(book, size[0])
    settle_hanging(book)
    book.settle({**KEYS, **(more or {})})
    assume_noise(book)
    if not any(path[0] == "dataset_config" and len(path) > 1 for path in book.entries):
        kohya_data.assume(book, is_on(keys.get("bucket_no_upscale", ("", False))[1]))
    book.assume("train.scheduler", "constant", "kohya's default of lr_scheduler")
    book.assume("adapter.targets", "qkvo+ff", "what kohya's networks.lora adapts, proj_in and proj_out apart")


def _parts(book: Ledger, keys: Named) -> None:
    given = [keys[name] for name in PARTS if name in keys and is_on(keys[name][1])]
    if given:
        book.carry("base.parts", tuple(str(value) for _, value in given), *(path for path, _ in given))


def _dataset(book: Ledger, keys: Named) -> None:
    if "dataset_config" not in keys or is_off(keys["dataset_config"][1], (None, "")):
        return
    path = keys["dataset_config"][0]
    if any(settled[0] == "dataset_config" and len(settled) > 1 for settled in book.entries):
        book.ours(path, "read: its keys are listed as dataset_config.…")
        for name in kohya_data.OVERRULED & set(keys):
            book.ours(keys[name][0], "the dataset's TOML overrules it")
    else:
        book.left(path, "the dataset's TOML was not found, so its keys were not read")


def _layer(book: Ledger, keys: Named) -> None:
    """clip_skip beside v2 is one that sd-scripts itself warns of."""
    skip, v2 = keys.get("clip_skip"), keys.get("v2")
    if skip and v2 and is_on(v2[1]) and is_on(skip[1]) and skip[0] in set(book.open()):
        book.left(skip[0], "which layer Stable Diffusion 2 reads is fixed in lorac")


def _length(book: Ledger, keys: Named) -> None:
    epochs, steps = keys.get("max_train_epochs"), keys.get("max_train_steps")
    if epochs and is_on(epochs[1]):
        book.carry("train.epochs", epochs[1], epochs[0])
        if steps:
            book.ours(steps[0], "max_train_epochs overrules it")
    elif steps and is_on(steps[1]):
        book.carry("train.steps", steps[1], steps[0])
    else:
        book.assume("train.steps", STEPS, "kohya's default of max_train_steps")


def _batch(book: Ledger, keys: Named) -> None:
    """A data set's batch_size, settled already, overrules train_batch_size."""
    open_ = set(book.open())
    names = [name for name in ("train_batch_size", "gradient_accumulation_steps") if name in keys]
    set_batch(
        book,
        [keys[name][0] for name in names if keys[name][0] in open_],
        "kohya's default of train_batch_size",
    )


def _optimizer(book: Ledger, keys: Named) -> None:
    rates = tuple(keys[name][0] for name in ("learning_rate", "unet_lr", "text_encoder_lr") if name in keys)
    name = keys.get("optimizer_type")
    kind: type | None = AdamW
    if name and not is_off(name[1], (None, "")):
        kind = optimizers.carry(book, name[0], name[1], rates)
    else:
        for key, meant in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
            if is_on(keys.get(key, ("", False))[1]):
                kind = optimizers.carry(book, keys[key][0], meant, rates)
    said = keys.get("optimizer_args")
    given: dict[str, Any] = {}
    if said and not is_off(said[1], (None, "", [], "[]")):
        try:
            given = arguments(said[1])
            optimizers.arguments(book, said[0], kind, given)
        except CannotCarry as reason:
            book.left(said[0], str(reason))
    if kind is Adafactor and is_on(given.get("relative_step", True)):
        for rate in rates:
            book.left(rate, "Adafactor found its own (relative_step); lorac's takes train.learning_rate")
        book.todo.append("train.learning_rate: Adafactor found its own; choose one")
    optimizers.assume(book)


def _rates(book: Ledger, keys: Named) -> None:
    """unet_lr overrules learning_rate; the text encoder is trained too, unless told otherwise or at rate 0."""
    open_ = set(book.open())
    rate, unet, text = (keys.get(name) for name in ("learning_rate", "unet_lr", "text_encoder_lr"))
    if unet and unet[0] in open_ and is_on(unet[1]):
        book.carry("train.learning_rate", unet[1], unet[0])
        if rate and rate[0] in open_:
            book.ours(rate[0], "unet_lr overrules it")
    elif rate and rate[0] in open_ and is_on(rate[1]):
        book.carry("train.learning_rate", rate[1], rate[0])
    elif not rate and not unet:
        book.assume("train.learning_rate", RATE, "kohya's default of learning_rate")
    only_unet = keys.get("network_train_unet_only")
    if only_unet and is_on(only_unet[1]):
        book.carry("adapter.text_encoder", False, only_unet[0])
        if text and text[0] in open_:
            book.ours(text[0], "the text encoder is not trained")
        return
    if text and text[0] in open_ and not is_off(text[1], (None, "")):
        values = text[1] if isinstance(text[1], list) else [text[1]]
        if all(is_off(one, (0,)) for one in values):
            book.carry("adapter.text_encoder", False, text[0])
        elif len({str(one) for one in values}) > 1:
            book.left(text[0], "lorac has one rate for all text encoders")
        else:
            book.carry("train.text_encoder_learning_rate", values[0], text[0])
    book.assume("adapter.text_encoder", True, "kohya's default: network_train_unet_only is not set")


def _schedule(book: Ledger, keys: Named) -> None:
    name, warmup = keys.get("lr_scheduler"), keys.get("lr_warmup_steps")
    curve = str(name[1]).strip().lower() if name else "constant"
    if name and not is_off(name[1], (None, "")):
        book.apply(name[0], To("train.scheduler", scheduler))
    _numbers_of(book, keys, curve)
    if warmup:
        set_warmup(book, warmup[0], curve == "constant", book.settings.get("train.steps"))


def _numbers_of(book: Ledger, keys: Named, curve: str) -> None:
    """What sd-scripts reads beside the scheduler's name; of the others' numbers nothing comes."""
    falls_late, ends = "warmup_stable_decay", (*TO_A_MINIMUM, "warmup_stable_decay")
    cycles, decay, least = (
        keys.get(f"lr_{one}") for one in ("scheduler_num_cycles", "decay_steps", "scheduler_min_lr_ratio")
    )
    if cycles and is_on(cycles[1]):
        if curve == "cosine_with_restarts":
            book.carry("train.cycles", cycles[1], cycles[0])
        elif curve in ends and number_or(cycles[1], 1) != 1:
            book.left(cycles[0], f"lorac's {curve} falls once")
        else:
            book.ours(cycles[0], f"{curve} has no cycles")
    if decay and is_on(decay[1]):
        if curve == falls_late:
            is_share = 0 < number_or(decay[1], -1) < 1
            book.carry("train.decay_ratio" if is_share else "train.decay_steps", decay[1], decay[0])
        else:
            book.ours(decay[0], f"it matters for {falls_late} alone")
    if least and is_on(least[1]):
        if curve in ends:
            book.carry("train.min_ratio", least[1], least[0])
        else:
            book.ours(least[0], f"it matters for {' and '.join(ends)} alone")


def _drawing(book: Ledger, keys: Named) -> None:
    """Samples each so many epochs overrule those each so many steps."""
    epochs, steps = keys.get("sample_every_n_epochs"), keys.get("sample_every_n_steps")
    if epochs and steps and is_on(epochs[1]) and is_on(steps[1]):
        book.ours(steps[0], "sample_every_n_epochs overrules it")


def set_warmup(book: Ledger, path: Path, ignored: bool, steps: Any) -> None:
    """Steps, or a share of all steps where it is below 1 (lr_warmup_steps 0.1)."""
    value = book.entries[path]
    share = number_or(value, -1)
    if is_off(value, (None, "", 0)):
        book.ours(path, "no warm-up, as in lorac")
    elif ignored:
        book.ours(path, "kohya's scheduler `constant` takes no warm-up")
    elif not 0 < share < 1:
        book.carry("train.warmup_steps", value, path)
    elif steps is not None:
        book.carry("train.warmup_steps", int(share * steps.value), path)
    else:
        book.carry("train.warmup_ratio", share, path)


def number_or(value: Any, otherwise: float) -> float:
    """A number, or else another."""
    try:
        return number(value)
    except CannotCarry:
        return otherwise


def _network(book: Ledger, keys: Named) -> None:
    module = keys.get("network_module")
    if module:
        kind = str(module[1]).strip()
        if kind in FAMILIES:
            book.family(FAMILIES[kind], module[0])
        elif kind in LORA:
            book.ours(module[0], "LoRA, lorac's own method")
        else:
            book.left(module[0], "lorac trains LoRA (networks.lora)")
    given = keys.get("network_args")
    if given and not is_off(given[1], (None, "", [], "[]", {})):
        try:
            set_network_arguments(
                book, given[0], dict(given[1]) if isinstance(given[1], dict) else arguments(given[1])
            )
        except CannotCarry as reason:
            book.left(given[0], str(reason))
    rank = keys.get("network_dim")
    if rank and is_on(rank[1]):
        book.carry("adapter.rank", rank[1], rank[0])
    else:
        book.assume("adapter.rank", 4, "kohya's default of network_dim")
    alpha = keys.get("network_alpha")
    if not (alpha and is_on(alpha[1]) and book.carry("adapter.alpha", alpha[1], alpha[0])):
        book.assume("adapter.alpha", 1.0, "kohya's default of network_alpha")
        if alpha and alpha[0] in set(book.open()):
            book.ours(alpha[0], "empty: kohya takes 1, which was carried")


def set_network_arguments(book: Ledger, path: Path, given: dict[str, Any]) -> None:
    """`conv_dim` and what else was passed to the network module."""
    conv = given.pop("conv_dim", None)
    conv_alpha = given.pop("conv_alpha", None)
    plus = given.pop("loraplus_lr_ratio", None)
    if is_on(plus):
        book.carry("train.lora_plus_ratio", plus, path, comment="network_args: loraplus_lr_ratio")
    dropped = [name for name in ("rank_dropout", "module_dropout") if is_on(given.get(name))]
    for name in dropped:
        book.carry(f"adapter.{name}", given[name], path, comment=f"network_args: {name}")
    given = {name: value for name, value in given.items() if is_on(value) and name not in dropped}
    if is_on(conv):
        book.carry("adapter.targets", "qkvo+ff+conv", path, comment="network_args: conv_dim")
        book.todo.append(
            f"adapter: convolutions had rank {conv} and alpha {conv_alpha}; lorac has one for all layers"
        )
    if given:
        book.left(path, f"lorac's LoRA has no {', '.join(given)}")
    elif not is_on(conv) and not is_on(plus) and not dropped:
        book.ours(path, "nothing is set")
