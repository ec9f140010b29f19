"""Nerogar's OneTrainer: the JSON of a preset or a saved config. Names and defaults: modules/util/config/*.py and
modules/util/optimizer_util.py at 23df383."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from lorac.importers import onetrainer_words, optimizers, words
from lorac.importers.kohya_keys import settle_hanging
from lorac.importers.ledger import (
    OFF,
    CannotCarry,
    Draft,
    Ledger,
    Path,
    To,
    Unless,
    dotted,
    is_on,
    ledger,
    number,
)
from lorac.importers.onetrainer_keys import (
    ANOTHER,
    CONCEPT,
    DENOISERS,
    ENCODERS,
    FAMILIES,
    MORE,
    PART,
    PIXELS,
    PRESETS,
    TABLE,
    TAGS,
    quantised,
    snr,
)
from lorac.spec import AdamW

TITLE = "OneTrainer's JSON"


def recognise(config: Any) -> bool:
    if not isinstance(config, Mapping):
        return False
    kind = config.get("model_type")
    return "training_method" in config and isinstance(kind, str) and kind == kind.upper()


def companions(config: Any) -> dict[str, str]:
    if config.get("concepts"):
        return {}
    name = config.get("concept_file_name")
    return {"concept_file_name": name} if isinstance(name, str) and name else {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = ledger(config)
    concepts: Path = ("concepts",)
    if isinstance(companions.get("concept_file_name"), list):
        concepts = ("concept_file_name",)
        book.entries |= ledger(companions["concept_file_name"], concepts).entries
        book.ours(("concept_file_name",), "read: its keys are listed as concept_file_name[…]")
    settle_hanging(book)
    _concepts(book, concepts)
    _family(book)
    words.settle_clip_skip(book, ("text_encoder_layer_skip",), OFF)
    _batch(book)
    _optimizer(book)
    onetrainer_words.carry(book)
    _parts(book)
    _samples(book)
    _words(book)
    optimizers.average(book, ("ema",), ("ema_decay",), 0.999, "OneTrainer")
    if "train.ema" in book.settings and (every := book.entries.get(("ema_update_step_interval",), 5)) != 1:
        book.todo.append(f"train.ema: OneTrainer averaged each {every} steps; lorac does after each one")
    book.settle(TABLE, dotted)
    for field, value, name in (
        ("train.scheduler", "constant", "learning_rate_scheduler"),
        ("train.learning_rate", 3e-6, "learning_rate"),
        ("train.warmup_steps", 200, "learning_rate_warmup_steps"),
        ("train.epochs", 100, "epochs"),
        ("adapter.rank", 16, "lora_rank"),
        ("adapter.alpha", 1.0, "lora_alpha"),
        ("adapter.targets", PRESETS["full"], "layer_filter_preset"),
        ("adapter.text_encoder", True, "text_encoder.train"),
        ("data.resolution", 512, "resolution"),
        ("fit.dtype", "fp16", "train_dtype"),
    ):
        book.assume(field, value, f"OneTrainer's default of {name}")
    book.assume("data.upscale", True, "OneTrainer enlarges small pictures")
    return book.draft()


def _concepts(book: Ledger, prefix: Path) -> None:
    """The first concept that is enabled and to be learnt from."""
    own = [path for path in book.entries if path[: len(prefix)] == prefix and len(path) > len(prefix)]
    places = dict.fromkeys(path[len(prefix)] for path in own)
    good = [
        place
        for place in places
        if is_on(book.entries.get((*prefix, place, "enabled"), True))
        and book.entries.get((*prefix, place, "type"), "STANDARD") == "STANDARD"
    ]
    chosen = (good or list(places) or [0])[0]
    open_ = set(book.open())
    for path in own:
        if path not in open_:
            continue
        name = dotted(path[len(prefix) + 1 :])
        if path[len(prefix)] != chosen:
            book.left(path, "another concept: lorac takes one folder. Put them in one, as subfolders 10_NAME")
        elif name in CONCEPT and book.entries[path] not in (None, ""):
            book.apply(path, CONCEPT[name])
        elif name.startswith("image."):
            book.apply(path, Unless(PIXELS))
        elif name.startswith("text."):
            book.apply(path, Unless(TAGS, off=(*OFF, "full", "none")))
    strategy = (*prefix, chosen, "balancing_strategy")
    if strategy in book.entries:
        if str(book.entries[strategy]).upper() == "REPEATS":
            book.ours(strategy, "repeats, as in lorac")
        else:
            book.left(strategy, "lorac counts repeats (data.repeats)")
            book.settings.pop("data.repeats", None)
            if (balancing := (*prefix, chosen, "balancing")) in book.entries:
                book.left(balancing, "samples, not repeats")


def _family(book: Ledger) -> None:
    path: Path = ("model_type",)
    if path in book.entries:
        said = str(book.entries[path])
        book.family(FAMILIES.get(said, said.lower()), path)


def _batch(book: Ledger) -> None:
    paths: list[Path] = [
        path for path in (("batch_size",), ("gradient_accumulation_steps",)) if path in book.entries
    ]
    words.set_batch(book, paths, "OneTrainer's default of batch_size")


def _optimizer(book: Ledger) -> None:
    name: Path = ("optimizer", "optimizer")
    plain: Path = ("optimizer",)
    name = plain if plain in book.entries else name
    rates: tuple[Path, ...] = (("learning_rate",),) if ("learning_rate",) in book.entries else ()
    given = book.entries.get(name)
    kind = optimizers.carry(book, name, given, rates) if given else AdamW
    for path in book.open():
        if path[0] == "optimizer" and len(path) > 1:
            key = str(path[-1])
            if kind is not None and optimizers.takes(kind, key):
                optimizers.arguments(book, path, kind, {key: book.entries[path]})
            else:
                book.ours(path, "it matters for other optimizers, or for how fast they are")
        elif path[0] == "optimizer_defaults":
            book.ours(path, "what OneTrainer's window offers for other optimizers")
    optimizers.assume(book)


def _parts(book: Ledger) -> None:
    """What is said of each network of the base: its dtype, whether and how fast it is trained."""
    for path in book.open():
        part, *rest = path
        key = rest[-1] if len(rest) == 1 else ""
        value = book.entries[path]
        if not rest or part == "optimizer":
            continue
        if part in DENOISERS:
            _denoiser(book, path, str(key), value)
        elif part in ENCODERS:
            _encoder(book, path, str(part), str(key), value)
        elif part in ("vae", "effnet_encoder", "decoder", "decoder_text_encoder", "decoder_vqgan"):
            book.ours(path, "not trained; lorac encodes pictures in float32" if part == "vae" else PART)
        elif part == "quantization":
            book.ours(path, "lorac quantises all linear layers of the blocks: fit.quantization")
        elif part == "cloud" or part == "secrets":
            book.left(path, words.SECRET) if part == "secrets" and value else book.ours(path, ANOTHER)
        elif part in ("embedding", "unconditional_transformer"):
            book.ours(path, "for an embedding that is trained alone" if part == "embedding" else PART)


def _denoiser(book: Ledger, path: Path, key: str, value: Any) -> None:
    if key == "weight_dtype":
        if str(value).upper() in ("FLOAT_16", "BFLOAT_16", "FLOAT_32", "NONE"):
            book.ours(path, "the base is held in fit.dtype")
        else:
            book.apply(path, To("fit.quantization", quantised))
    elif key == "train":
        book.apply(path, Unless("lorac always trains the denoiser", off=(True,), same="trained, as in lorac"))
    elif key == "learning_rate" and value is not None:
        book.left(path, "the denoiser's rate is train.learning_rate")
    elif key in ("stop_training_after", "guidance_scale", "attention_mask"):
        book.apply(path, Unless("lorac trains to the end, with a family's own guidance", off=(*OFF, 1)))
    else:
        book.ours(path, words.PLANNER if value else "empty")


def _encoder(book: Ledger, path: Path, part: str, key: str, value: Any) -> None:
    if key == "train" and part == "text_encoder":
        book.carry("adapter.text_encoder", is_on(value), path)
    elif key == "train":
        first = book.entries.get(("text_encoder", "train"), True)
        same = is_on(value) == is_on(first)
        book.ours(path, "as text_encoder.train") if same else book.left(
            path, "lorac trains all text encoders, or none"
        )
    elif key == "learning_rate" and value is not None and part == "text_encoder":
        book.carry("train.text_encoder_learning_rate", value, path)
    elif key == "learning_rate" and value is not None:
        book.left(path, "lorac has one rate for all text encoders")
    elif key == "dropout_probability" and is_on(value) and part == "text_encoder":
        book.carry("data.caption_dropout", value, path)
    elif key in ("stop_training_after", "train_embedding", "dropout_probability", "include"):
        book.apply(path, Unless("lorac has one answer for all text encoders", off=(*OFF, True)))
    else:
        book.ours(path, "encoders leave the card once captions are encoded")


def _words(book: Ledger) -> None:
    """Keys whose meaning hangs on their value."""
    entries = book.entries
    preset: Path = ("layer_filter_preset",)
    if preset in entries:
        said = str(entries[preset])
        if said in PRESETS:
            book.carry("adapter.targets", PRESETS[said], preset)
            book.todo.extend([f"adapter.targets: {said} {MORE[said]}"] * (said in MORE))
        else:
            book.left(preset, "adapter.targets has qkv, qkvo, qkvo+ff, qkvo+ff+conv, or a regex")
    if ("resolution",) in entries:
        words.set_side(book, ("resolution",))
    weight: Path = ("loss_weight_fn",)
    strength: Path = ("loss_weight_strength",)
    if weight in entries:
        if str(entries[weight]).upper() == "MIN_SNR_GAMMA":
            gamma = entries.get(strength, 5.0)
            book.carry("train.snr_gamma", gamma, weight, *([strength] if strength in entries else []))
        else:
            book.apply(weight, To("train.snr_gamma", snr))
    if strength in entries and strength in set(book.open()):
        book.ours(strength, "it matters for a weighted loss alone")
    warmup: Path = ("learning_rate_warmup_steps",)
    if warmup in entries:
        _warm_up(book, warmup)
    place: Path = ("output_model_destination",)
    if place in entries and isinstance(entries[place], str):
        written = PurePosixPath(entries[place].replace("\\", "/"))
        book.carry("name", written.stem, place)
    _each(book, "save_every", "NEVER", {"STEP": "outputs.save_steps", "EPOCH": "outputs.save_epochs"})
    if "samples.prompts" in book.settings:
        _each(book, "sample_after", "MINUTE", {"STEP": "samples.every", "EPOCH": "samples.every_epochs"})
    for name in ("sample_after", "sample_after_unit"):
        if (name,) in book.open():
            book.ours((name,), "nothing is drawn")
    _cycles(book)
    for path in book.open():
        if str(path[0]).startswith(("oft_", "lokr_", "tensorboard_")):
            book.ours(
                path, "it matters for another method alone" if path[0] != "tensorboard" else words.LOGGING
            )
        elif str(path[0]).endswith(
            ("_gradient_reduce", "gradient_reduce_precision", "_gradient_reduce_buffer")
        ):
            book.ours(path, "it matters for several cards alone")


def _each(book: Ledger, key: str, silent: str, fields: Mapping[str, str]) -> None:
    """A number with a unit of its own; `silent` is the unit where none is said. Off: 0, or the unit NEVER."""
    paths = [path for path in ((key,), (f"{key}_unit",)) if path in book.entries]
    unit = str(book.entries.get((f"{key}_unit",), silent)).upper()
    if (key,) in book.entries and is_on(book.entries[(key,)]) and unit in fields:
        book.carry(fields[unit], book.entries[(key,)], *paths)
        return
    for path in paths:
        why = f"lorac counts steps or epochs: set {' or '.join(fields.values())}"
        book.apply(path, Unless(why, off=(*OFF, "never")))


def _cycles(book: Ledger) -> None:
    """Numbers of other curves than the one that is said."""
    said = str(book.entries.get(("learning_rate_scheduler",), "CONSTANT")).upper()
    for key, curves in (
        ("learning_rate_cycles", ("COSINE_WITH_HARD_RESTARTS",)),
        ("learning_rate_min_factor", ("LINEAR", "COSINE", "COSINE_WITH_HARD_RESTARTS", "REX")),
    ):
        if (key,) in book.entries and said not in curves:
            book.ours((key,), f"{said.lower()} has none")


def _warm_up(book: Ledger, path: Path) -> None:
    """Steps, or a share of all steps where it is 1 or less."""
    try:
        value = number(book.entries[path])
    except CannotCarry as reason:
        book.left(path, str(reason))
        return
    if 0 < value <= 1:
        words.set_warmup_share(book, path)
    else:
        book.carry("train.warmup_steps", value, path)


def _samples(book: Ledger) -> None:
    """Prompts with the options of the first that is enabled."""
    own = [path for path in book.entries if path[0] == "samples" and len(path) == 3]
    places = [
        place
        for place in dict.fromkeys(path[1] for path in own)
        if is_on(book.entries.get(("samples", place, "enabled"), True))
    ]
    prompts: list[Path] = [
        ("samples", place, "prompt") for place in places if ("samples", place, "prompt") in book.entries
    ]
    if prompts:
        book.carry("samples.prompts", tuple(book.entries[path] for path in prompts), *prompts)
    fields = {
        "negative_prompt": "samples.negative_prompt",
        "height": "samples.height",
        "width": "samples.width",
    }
    fields |= {"seed": "samples.seed", "diffusion_steps": "samples.steps", "cfg_scale": "samples.guidance"}
    for path in own:
        _, place, key = path
        if path in prompts or path not in set(book.open()):
            continue
        if prompts and place == places[0] and key in fields and book.entries[path] not in (None, ""):
            book.carry(fields[str(key)], book.entries[path], path)
        elif key == "enabled":
            book.ours(path, "a switch")
        elif place not in places:
            book.left(path, "a sample that is not enabled")
        else:
            book.apply(path, Unless("lorac draws all prompts alike", off=(*OFF, 1)))
