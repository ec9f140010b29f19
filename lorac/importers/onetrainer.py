"""Nerogar's OneTrainer: the JSON of a preset or a saved config. Names and defaults: modules/util/config/*.py and
modules/util/optimizer_util.py at 23df383."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from lorac.importers import words
from lorac.importers.kohya_keys import optional
from lorac.importers.ledger import (
    OFF,
    CannotCarry,
    Draft,
    IsOurs,
    Ledger,
    Ours,
    Path,
    Table,
    To,
    Unless,
    dotted,
    is_on,
    ledger,
    number,
)

TITLE = "OneTrainer's JSON"

FAMILIES = {
    "STABLE_DIFFUSION_15": "sd1",
    "STABLE_DIFFUSION_20": "sd2",
    "STABLE_DIFFUSION_20_BASE": "sd2",
    "STABLE_DIFFUSION_21": "sd2",
    "STABLE_DIFFUSION_21_BASE": "sd2",
    "STABLE_DIFFUSION_XL_10_BASE": "sdxl",
    "STABLE_DIFFUSION_3": "sd3",
    "STABLE_DIFFUSION_35": "sd3",
    "FLUX_DEV_1": "flux1",
}
DENOISERS = ("unet", "transformer", "prior")
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")

PRESETS = {"attn-mlp": "qkvo+ff", "attn-only": "qkvo", "full": "qkvo+ff+conv"}
"""layer_filter_preset; attn-mlp takes proj_in and proj_out too, full each linear layer and convolution."""

ANOTHER = "another part of OneTrainer, not of the LoRA's training"
FLOW = "a family's own timestep sampling stands"
PLAIN_NOISE = "lorac's noise is plain, with noise_offset"
MASKS = "lorac's loss has no masks"
SQUARED = "lorac's loss is the squared error"
EPOCHS = "lorac counts steps"
TAGS = "lorac trains captions as they are"
PIXELS = "lorac changes pictures by data.flip alone"
PART = "the part of another architecture"


def _quantised(value: Any) -> Any:
    name = str(value).upper()
    if name == "NFLOAT_4":
        return "nf4"
    if name.startswith("INT_8"):
        return "int8"
    raise CannotCarry("lorac holds a base in fp32, bf16, fp16, int8 or nf4")


def _snr(value: Any) -> Any:
    name = str(value).upper()
    if name == "CONSTANT":
        raise IsOurs("all timesteps alike, as in lorac")
    raise CannotCarry("lorac weighs losses by snr_gamma alone")


TABLE: Table = {
    "weight_dtype": Ours("each part of the base says its own"),
    "__version": Ours("which OneTrainer wrote it"),
    "training_method": Unless("lorac trains LoRAs", off=("LORA",), same="a LoRA"),
    "base_model_name": To("base.path"),
    "output_dtype": To("outputs.dtype", words.dtype),
    "output_model_format": Ours("lorac writes kohya's and diffusers' names"),
    "concept_file_name": Unless("the concepts lie in a file of their own, and it was not found"),
    "aspect_ratio_bucketing": To("data.buckets", is_on),
    "latent_caching": Ours(words.CACHED),
    "clear_cache_before_training": Ours(words.CACHED),
    "cache_dir": Ours(words.CACHED),
    "only_cache": Unless("`lorac run` caches and trains"),
    "learning_rate_scheduler": To("train.scheduler", words.scheduler),
    "custom_learning_rate_scheduler": Unless("lorac has its own schedulers only"),
    "scheduler_params": Unless("lorac has its own schedulers only"),
    "learning_rate_cycles": Unless(
        "lorac's cosine does not restart", off=(*OFF, 1), same="one cycle, as in lorac"
    ),
    "learning_rate_min_factor": Unless("lorac's curves end at zero"),
    "learning_rate_scaler": Unless(
        "lorac takes the rate as it is", off=(*OFF, "none"), same="the rate as it is, as in lorac"
    ),
    "learning_rate": To("train.learning_rate"),
    "epochs": To("train.epochs"),
    "ema": Unless("lorac keeps no average of the weights", off=(*OFF, "off")),
    "ema_decay": Ours("it matters for the average of weights alone"),
    "ema_update_step_interval": Ours("it matters for the average of weights alone"),
    "dataloader_threads": Ours(words.LOADING),
    "train_device": Ours("lorac takes the card that fit.card names"),
    "temp_device": Ours(words.PLANNER),
    "multi_gpu": Unless("set fit.processes for several cards"),
    "device_indexes": Unless("set fit.processes for several cards"),
    "train_dtype": To("fit.dtype", words.dtype),
    "fallback_train_dtype": Ours("lorac's step has one dtype"),
    "enable_autocast_cache": Ours("lorac's step runs without autocast"),
    "attention_mechanism": Ours(words.ATTENTION),
    "compile": Ours("how fast a step runs; the trained result is the same"),
    "async_offloading": Ours(words.PLANNER),
    "gradient_checkpointing": Ours(words.PLANNER),
    "layer_offload_fraction": Ours(words.PLANNER),
    "force_circular_padding": Unless("lorac keeps the base's own padding"),
    "mse_strength": Unless(SQUARED, off=(None, 1), same="the squared error, as in lorac"),
    "mae_strength": Unless(SQUARED),
    "log_cosh_strength": Unless(SQUARED),
    "huber_strength": Unless(SQUARED),
    "huber_delta": Ours("it matters for the Huber loss alone"),
    "vb_loss_strength": Ours("it matters for models that predict a variance alone"),
    "loss_scaler": Unless(
        "lorac's loss is the mean over samples", off=(*OFF, "none"), same="the mean, as in lorac"
    ),
    "dropout_probability": optional("adapter.dropout"),
    "clip_grad_norm": To("train.max_grad_norm"),
    "offset_noise_weight": To("train.noise_offset"),
    "generalized_offset_noise": Unless(PLAIN_NOISE),
    "perturbation_noise_weight": Unless(PLAIN_NOISE),
    "rescale_noise_scheduler_to_zero_terminal_snr": Unless("lorac keeps the base's own noise schedule"),
    "force_v_prediction": Unless("set base.prediction_type"),
    "force_epsilon_prediction": Unless("set base.prediction_type"),
    "min_noising_strength": Unless("lorac draws from all timesteps"),
    "max_noising_strength": Unless(
        "lorac draws from all timesteps", off=(None, 1), same="all timesteps, as in lorac"
    ),
    "timestep_distribution": Unless(FLOW, off=(*OFF, "uniform"), same="uniform, as in lorac"),
    "noising_weight": Unless(FLOW),
    "noising_bias": Unless(FLOW),
    "timestep_shift": Unless(FLOW, off=(*OFF, 1), same="none"),
    "dynamic_timestep_shifting": Unless(FLOW),
    "text_encoder_layer_skip": Unless("lorac takes the text encoder's last layer"),
    "text_encoder_2_layer_skip": Unless("lorac takes the text encoder's own layer"),
    "text_encoder_3_layer_skip": Unless("lorac takes the text encoder's own layer"),
    "text_encoder_4_layer_skip": Unless("lorac takes the text encoder's own layer"),
    "text_encoder_sequence_length": Ours("the family says how long captions are"),
    "text_encoder_2_sequence_length": Ours("the family says how long captions are"),
    "masked_training": Unless(MASKS),
    "unmasked_probability": Ours("it matters for masks alone"),
    "unmasked_weight": Ours("it matters for masks alone"),
    "normalize_masked_area_loss": Ours("it matters for masks alone"),
    "masked_prior_preservation_weight": Ours("it matters for masks alone"),
    "custom_conditioning_image": Unless("lorac trains on pictures and captions alone"),
    "layer_filter": Unless("adapter.targets takes a regex of whole names"),
    "layer_filter_regex": Unless("adapter.targets takes a regex of whole names"),
    "embedding_learning_rate": Unless("lorac trains no embedding"),
    "preserve_embedding_norm": Unless("lorac trains no embedding"),
    "embedding_weight_dtype": Ours("lorac trains no embedding"),
    "additional_embeddings": Unless("lorac trains no embedding"),
    "bundle_additional_embeddings": Ours("lorac trains no embedding"),
    "peft_type": Unless("lorac trains LoRA", off=("LORA",), same="LoRA, lorac's own method"),
    "lora_model_name": Unless("lorac begins an adapter anew"),
    "lora_rank": To("adapter.rank"),
    "lora_alpha": To("adapter.alpha"),
    "lora_decompose": Unless("lorac has no DoRA"),
    "lora_decompose_norm_epsilon": Ours("it matters for DoRA alone"),
    "lora_decompose_output_axis": Ours("it matters for DoRA alone"),
    "lora_weight_dtype": Unless(
        "lorac's adapter is fp32 while it is trained", off=("FLOAT_32", None), same="fp32, as in lorac"
    ),
    "frames": Ours("it matters for videos alone"),
    "tensorboard": Ours(words.LOGGING),
    "samples_to_tensorboard": Ours(words.LOGGING),
    "validation": Unless("lorac holds nothing out yet"),
    "validate_after": Ours("it matters for validation alone"),
    "validate_after_unit": Ours("it matters for validation alone"),
    "sample_definition_file_name": Unless("prompts lie in a file of their own: copy them to samples.prompts"),
    "sample_after": Ours("in sample_after_unit"),
    "sample_after_unit": Ours("lorac draws at checkpoints"),
    "sample_skip_first": Ours("lorac draws at checkpoints"),
    "sample_image_format": Ours("lorac draws PNG"),
    "non_ema_sampling": Ours("lorac keeps no average of the weights"),
    "backup_after": Ours("a checkpoint can be gone on from: outputs.save_steps"),
    "backup_after_unit": Ours("a checkpoint can be gone on from: outputs.save_steps"),
    "backup_before_save": Ours("a checkpoint can be gone on from: outputs.save_steps"),
    "rolling_backup": Ours("outputs.keep_checkpoints says how many stay"),
    "rolling_backup_count": Ours("outputs.keep_checkpoints says how many stay"),
    "save_skip_first": Unless("lorac saves from the first on"),
    "save_filename_prefix": Unless("files are called by the experiment's name"),
    "continue_last_backup": Ours(words.RESUME),
    "prevent_overwrites": Ours("lorac goes on with a run, or refuses"),
    "include_train_config": Ours("the plan lies beside the LoRA"),
    "workspace_dir": Ours("outputs.output_dir has a folder for each run"),
    "debug_mode": Unless("lorac has --debug"),
    "debug_dir": Ours("lorac has --debug"),
    "huggingface_cache_dir": Ours(words.HUB),
    "offline_mode": Ours(words.HUB),
}
"""Keys of the config itself."""

CONCEPT: Table = {
    "name": Ours("the folder says which"),
    "path": To("data.path"),
    "seed": Ours("train.seed decides everything"),
    "enabled": Ours("enabled"),
    "type": Unless("lorac has no regularisation pictures", off=("STANDARD", None), same="pictures to learn"),
    "include_subdirectories": Ours("lorac reads subfolders"),
    "image_variations": Ours("lorac caches a picture, and its mirror image"),
    "text_variations": Ours("lorac trains captions as they are"),
    "balancing": To("data.repeats"),
    "loss_weight": Unless(
        "lorac weighs pictures by data.repeats alone", off=(None, 1), same="1, as in lorac"
    ),
    "concept_stats": Ours("figures of OneTrainer's window"),
    "image.enable_random_flip": To("data.flip", is_on),
    "image.enable_crop_jitter": Unless("lorac crops at the centre"),
    "image.enable_resolution_override": Unless("set data.resolution"),
    "image.resolution_override": Ours("it matters for enable_resolution_override alone"),
    "text.prompt_source": Unless(
        "lorac reads a text file beside each picture, metadata.csv or metadata.jsonl",
        off=("sample", None),
        same="a text file beside each picture",
    ),
    "text.prompt_path": Unless("lorac reads a text file beside each picture, metadata.csv or metadata.jsonl"),
    "text.enable_tag_shuffling": Unless(TAGS),
    "text.tag_delimiter": Ours("it matters for shuffled tags alone"),
    "text.keep_tags_count": Ours("it matters for shuffled tags alone"),
    "text.tag_dropout_enable": Unless(TAGS),
    "text.caps_randomize_enable": Unless(TAGS),
}

EPOCH_UNIT = "in another unit than steps"


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
    _concepts(book, concepts)
    _family(book)
    _batch(book)
    _optimizer(book)
    _parts(book)
    _words(book)
    _samples(book)
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
    for path in own:
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
    is_adamw = words.set_optimizer(book, name, given, rates) if given else True
    for path in book.open():
        if path[0] == "optimizer" and len(path) > 1:
            if path[-1] in words.ADAMW and is_adamw and book.entries[path] is not None:
                words.adamw_arguments(book, path, {str(path[-1]): book.entries[path]})
            else:
                book.ours(
                    path, "lorac's AdamW has weight_decay, betas and eps; how it is computed changes nothing"
                )
        elif path[0] == "optimizer_defaults":
            book.ours(path, "what OneTrainer's window offers for other optimizers")


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
            book.ours(path, "not trained; lorac picks a dtype that holds pictures" if part == "vae" else PART)
        elif part == "quantization":
            book.ours(path, "lorac quantises all linear layers of the blocks: fit.quantization")
        elif part == "cloud" or part == "secrets":
            book.left(path, words.SECRET) if part == "secrets" and value else book.ours(path, ANOTHER)
        elif part in ("embedding", "unconditional_transformer"):
            book.ours(path, "lorac trains no embedding" if part == "embedding" else PART)


def _denoiser(book: Ledger, path: Path, key: str, value: Any) -> None:
    if key == "weight_dtype":
        if str(value).upper() in ("FLOAT_16", "BFLOAT_16", "FLOAT_32", "NONE"):
            book.ours(path, "the base is held in fit.dtype")
        else:
            book.apply(path, To("fit.quantization", _quantised))
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
            book.apply(weight, To("train.snr_gamma", _snr))
    if strength in entries and strength in set(book.open()):
        book.ours(strength, "it matters for a weighted loss alone")
    warmup: Path = ("learning_rate_warmup_steps",)
    if warmup in entries:
        _warm_up(book, warmup)
    place: Path = ("output_model_destination",)
    if place in entries and isinstance(entries[place], str):
        written = PurePosixPath(entries[place].replace("\\", "/"))
        book.carry("name", written.stem, place)
    every: Path = ("save_every",)
    unit: Path = ("save_every_unit",)
    if every in entries and str(entries.get(unit, "NEVER")).upper() == "STEP":
        book.carry("outputs.save_steps", entries[every], *(path for path in (every, unit) if path in entries))
    else:
        for path in (every, unit):
            if path in entries:
                book.apply(path, Unless(f"{EPOCHS}: set outputs.save_steps", off=(*OFF, "never")))
    for path in book.open():
        if str(path[0]).startswith(("oft_", "lokr_", "tensorboard_")):
            book.ours(
                path, "it matters for another method alone" if path[0] != "tensorboard" else words.LOGGING
            )
        elif str(path[0]).endswith(
            ("_gradient_reduce", "gradient_reduce_precision", "_gradient_reduce_buffer")
        ):
            book.ours(path, "it matters for several cards alone")


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
