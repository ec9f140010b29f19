"""ostris' ai-toolkit: the YAML (or JSON) of a job. Names and defaults: toolkit/config_modules.py at 27a03a9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import optimizers, words
from lorac.importers.kohya import number_or
from lorac.importers.kohya_keys import optional, settle_hanging, switch
from lorac.importers.ledger import (
    OFF,
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
)
from lorac.spec import AdamW, Prodigy

TITLE = "ai-toolkit's job"

PROCESS: Path = ("config", "process", 0)

FAMILIES = {
    "is_v2": "sd2",
    "is_xl": "sdxl",
    "is_v3": "sd3",
    "is_flux": "flux1",
    "sd1": "sd1",
    "sd15": "sd1",
    "sd2": "sd2",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux1",
    "qwen_image": "qwen_image",
    "zimage": "z_image",
}
"""`model.is_*`, and the names that `model.arch` takes for the same; a variant follows behind a colon there."""

FLOW = "a family's own timestep sampling stands"
PRESERVE = "lorac preserves nothing by a second prediction"
TAGS = "lorac trains captions as they are"


def _extension(value: Any) -> str:
    return f".{str(value).lstrip('.')}"


def _v(value: Any) -> str:
    if is_on(value):
        return "v_prediction"
    raise IsOurs("lorac asks the base's own files")


TRAIN: Table = {
    "steps": To("train.steps"),
    "lr_scheduler": To("train.scheduler", words.scheduler),
    "lr_scheduler_params": Unless("what ai-toolkit hands to torch's scheduler: look at it"),
    "max_grad_norm": To("train.max_grad_norm"),
    "dtype": To("fit.dtype", words.dtype),
    "train_unet": Unless(
        "lorac always trains the denoiser", off=(True, None, ""), same="trained, as in lorac"
    ),
    "train_text_encoder": To("adapter.text_encoder", is_on),
    "text_encoder_lr": To("train.text_encoder_learning_rate"),
    "gradient_checkpointing": Ours(words.PLANNER),
    "xformers": Ours(words.ATTENTION),
    "sdp": Ours(words.ATTENTION),
    "attention_backend": Ours(words.ATTENTION),
    "noise_scheduler": Unless(
        "a family's own noise schedule stands", off=(*OFF, "ddpm", "flowmatch"), same="the family's own"
    ),
    "timestep_type": Unless(FLOW),
    "linear_timesteps": Unless(FLOW),
    "linear_timesteps2": Unless(FLOW),
    "content_or_style": Unless(FLOW, off=(*OFF, "balanced"), same="all timesteps alike, as in lorac"),
    "min_denoising_steps": Unless("lorac draws from all timesteps"),
    "max_denoising_steps": Unless(
        "lorac draws from all timesteps", off=(*OFF, 999, 1000), same="all timesteps, as in lorac"
    ),
    "bypass_guidance_embedding": Unless("a family's own guidance embedding stands"),
    "min_snr_gamma": optional("train.snr_gamma"),
    "snr_gamma": Unless("another weighting than min-SNR"),
    "noise_offset": To("train.noise_offset"),
    "loss_type": Unless(
        "lorac's loss is the squared error", off=(*OFF, "mse"), same="the squared error, as in lorac"
    ),
    "prompt_dropout_prob": Unless("lorac drops captions by data.caption_dropout"),
    "skip_first_sample": Ours("lorac draws at checkpoints"),
    "force_first_sample": Ours("lorac draws at checkpoints"),
    "disable_sampling": Unless("leave samples.prompts out to draw nothing"),
    "unload_text_encoder": Ours(words.PLANNER),
    "cache_text_embeddings": Ours(words.CACHED),
    "ema_config.use_ema": Ours("off, as in lorac"),
    "ema_config.ema_decay": Ours("it matters for the average of weights alone"),
    "reg_weight": Ours("it matters for regularisation pictures alone"),
    "diff_output_preservation": Unless(PRESERVE),
    "diff_output_preservation_multiplier": Ours("it matters for diff_output_preservation alone"),
    "diff_output_preservation_class": Ours("it matters for diff_output_preservation alone"),
    "blank_prompt_preservation": Unless(PRESERVE),
    "switch_boundary_every": Ours("it matters for models in two parts alone"),
}

OTHERS: Table = {
    "job": Unless("lorac trains LoRAs", off=("extension", "train"), same="a training"),
    "config.name": To("name"),
    "meta.name": Ours("the title is the experiment's name"),
    "meta.version": Ours("a plan has a hash instead"),
    "type": Unless(
        "lorac trains LoRAs", off=("sd_trainer", "ui_trainer", "diffusion_trainer"), same="a training"
    ),
    "training_folder": To("outputs.output_dir"),
    "sqlite_db_path": Ours("ai-toolkit's own bookkeeping"),
    "performance_log_every": Ours(words.LOGGING),
    "device": Ours("lorac takes the card that fit.card names"),
    "trigger_word": To("data.trigger"),
    "network.type": Unless("lorac trains LoRA", off=("lora", "locon"), same="LoRA, lorac's own method"),
    "network.dropout": optional("adapter.dropout"),
    "network.transformer_only": Ours("lorac adapts the layers that adapter.targets names"),
    "network.lokr_full_rank": Ours("it matters for LoKr alone"),
    "network.lokr_factor": Ours("it matters for LoKr alone"),
    "network.old_lokr_format": Ours("it matters for LoKr alone"),
    "network.pretrained_lora_path": Unless("lorac begins an adapter anew"),
    "network.network_kwargs.ignore_if_contains": Unless("adapter.targets takes a regex"),
    "network.network_kwargs.only_if_contains": Unless("adapter.targets takes a regex"),
    "save.dtype": To("outputs.dtype", words.dtype),
    "save.save_every": optional("outputs.save_steps"),
    "save.max_step_saves_to_keep": To("outputs.keep_checkpoints"),
    "save.save_format": Unless(
        words.SAFETENSORS, off=(*OFF, "safetensors", "diffusers"), same="lorac writes both"
    ),
    "save.push_to_hub": Unless(words.HUB),
    "save.hf_repo_id": Ours(words.HUB),
    "save.hf_private": Ours(words.HUB),
    "logging.log_every": Ours(words.LOGGING),
    "logging.use_ui_logger": Ours(words.LOGGING),
    "logging.use_wandb": Ours(words.LOGGING),
    "logging.verbose": Ours(words.LOGGING),
    "logging.project_name": Ours(words.LOGGING),
    "logging.run_name": Ours(words.LOGGING),
    "model.name_or_path": To("base.path"),
    "model.is_v_pred": To("base.prediction_type", _v),
    "model.dtype": To("fit.dtype", words.dtype),
    "model.quantize": Unless("set fit.quantization: lorac has int8 and nf4, ai-toolkit's 8 bits are floats"),
    "model.quantize_te": Ours("encoders leave the card once captions are encoded"),
    "model.qtype": Ours("it matters for model.quantize alone"),
    "model.qtype_te": Ours("encoders leave the card once captions are encoded"),
    "model.low_vram": Ours(words.PLANNER),
    "model.auto_memory": Ours(words.PLANNER),
    "model.layer_offloading": Ours(words.PLANNER),
    "model.layer_offloading_transformer_percent": Ours(words.PLANNER),
    "model.layer_offloading_text_encoder_percent": Ours(words.PLANNER),
    "model.vae_path": Unless("lorac takes the base's own autoencoder"),
    "model.extras_name_or_path": Unless("name what the transformer's file lacks, file by file: base.parts"),
    "model.te_name_or_path": Unless("name the text encoder's file: base.parts"),
    "model.lora_path": Unless("lorac adapts the base as it is; merge it before"),
    "model.assistant_lora_path": Unless("lorac adapts the base as it is; merge it before"),
    "model.compile": Unless(words.EAGER),
    "sample.prompts": To("samples.prompts"),
    "sample.neg": To("samples.negative_prompt"),
    "sample.seed": To("samples.seed"),
    "sample.sample_steps": To("samples.steps"),
    "sample.guidance_scale": To("samples.guidance"),
    "sample.sample_every": To("samples.every"),
    "sample.width": To("samples.width"),
    "sample.height": To("samples.height"),
    "sample.network_multiplier": To("samples.weight"),
    "sample.sampler": Ours("each family has one sampler"),
    "sample.sample_start_step": Ours("lorac draws at checkpoints"),
    "sample.walk_seed": Unless(
        "lorac draws each prompt at its own seed from samples.seed on", off=(True, *OFF), same="lorac's seeds"
    ),
    "sample.num_frames": Unless("lorac draws pictures", off=(*OFF, 1), same="one picture"),
    "sample.fps": Ours("it matters for videos alone"),
    "sample.format": Ours("lorac draws PNG"),
}

DATA: Table = {
    "folder_path": To("data.path"),
    "dataset_path": To("data.path"),
    "caption_ext": To("data.caption_extension", _extension),
    "caption_dropout_rate": To("data.caption_dropout"),
    "default_caption": Unless("lorac wants a caption for each picture, or data.captions='optional'"),
    "trigger_word": To("data.trigger"),
    "num_repeats": To("data.repeats"),
    "flip_x": To("data.flip", is_on),
    "flip_y": Unless("lorac mirrors left to right alone"),
    "buckets": To("data.buckets", is_on),
    "bucket_tolerance": To("data.bucket_step"),
    "shuffle_tokens": switch("data.shuffle_tags"),
    "keep_tokens": optional("data.keep_tags"),
    "token_dropout_rate": optional("data.tag_dropout"),
    "is_reg": Unless(words.PRIOR),
    "prior_reg": Unless(words.PRIOR),
    "network_weight": Unless("lorac trains at weight 1", off=(*OFF, 1), same="1, as in lorac"),
    "loss_multiplier": Unless(words.WEIGHTS, off=(*OFF, 1), same="1, as in lorac"),
    "random_crop": switch("data.random_crop"),
    "random_scale": Unless("lorac has data.random_zoom, such as 0.1"),
    "square_crop": Unless("data.buckets=False crops squares"),
    "mask_path": Unless(words.MASKS),
    "alpha_mask": switch("data.alpha_mask"),
    "mask_min_value": Ours("it matters for masks alone"),
    "invert_mask": Ours("it matters for masks alone"),
    "control_path": Unless("lorac trains on pictures and captions alone"),
    "num_frames": Unless("lorac trains on pictures", off=(*OFF, 1), same="one picture"),
    "fps": Ours("it matters for videos alone"),
    "cache_latents": Ours(words.CACHED),
    "cache_latents_to_disk": Ours(words.CACHED),
    "cache_text_embeddings": Ours(words.CACHED),
    "type": Unless("lorac trains on pictures", off=("image",), same="pictures"),
    "num_workers": Ours(words.LOADING),
    "prefetch_factor": Ours(words.LOADING),
}


def recognise(config: Any) -> bool:
    inner = config.get("config") if isinstance(config, Mapping) else None
    processes = inner.get("process") if isinstance(inner, Mapping) else None
    first = processes[0] if isinstance(processes, list) and processes else None
    return isinstance(first, Mapping) and {"train", "model"} <= set(first)


def companions(config: Any) -> dict[str, str]:
    return {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = ledger(config)
    book.within = PROCESS
    for path in list(book.entries):
        if path[:2] == PROCESS[:2] and path[:3] != PROCESS:
            book.left(path, "another process: lorac imports the first")
        elif path[:4] == (*PROCESS, "datasets") and path[4:5] != (0,) and len(path) > 5:
            book.left(path, "another set: lorac takes one folder. Put the sets in one, as subfolders 10_NAME")
    _network(book)
    _training(book)
    _resolution(book)
    _family(book)
    _prompts(book)
    table = {
        **OTHERS,
        **{f"train.{key}": rule for key, rule in TRAIN.items()},
        **{f"datasets.{key}": rule for key, rule in DATA.items()},
    }
    settle_hanging(book)
    book.settle(table, _name)
    book.assume("train.scheduler", "constant", "ai-toolkit's default of train.lr_scheduler")
    book.assume("train.steps", 1000, "ai-toolkit's default of train.steps")
    book.assume("outputs.save_steps", 1000, "ai-toolkit's default of save.save_every")
    book.assume("data.upscale", True, "ai-toolkit enlarges small pictures")
    book.assume("adapter.targets", "qkvo+ff", "what ai-toolkit adapts, proj_in and proj_out apart")
    if "data.trigger" in book.settings:
        book.assume("data.prepend_trigger", True, "ai-toolkit adds trigger_word to captions that lack it")
    return book.draft()


def _name(path: Path) -> str:
    """The key's name below its process."""
    return dotted(path[len(PROCESS) :]) if path[: len(PROCESS)] == PROCESS else dotted(path)


def _at(book: Ledger, *rest: str | int) -> Path | None:
    path = (*PROCESS, *rest)
    return path if path in book.entries and path in set(book.open()) else None


def _network(book: Ledger) -> None:
    """`rank` is the old name of `linear`; alpha is 1 where nothing is said."""
    for names, field, default in (
        (("rank", "linear"), "adapter.rank", 4),
        (("linear_alpha", "alpha"), "adapter.alpha", 1.0),
    ):
        found = [path for name in names if (path := _at(book, "network", name))]
        if found and book.carry(field, book.entries[found[0]], found[0]):
            for other in found[1:]:
                book.ours(other, f"{found[0][-1]} overrules it")
        else:
            book.assume(field, default, f"ai-toolkit's default of network.{names[-1]}")
    conv, alpha = _at(book, "network", "conv"), _at(book, "network", "conv_alpha")
    if conv and is_on(book.entries[conv]):
        book.carry("adapter.targets", "qkvo+ff+conv", conv)
    for path, field in ((conv, "adapter.rank"), (alpha, "adapter.alpha")):
        plain = book.settings.get(field)
        if (
            path
            and is_on(book.entries[path])
            and (not plain or number_or(book.entries[path], -1) != plain.value)
        ):
            book.left(
                path, f"convolutions had their own; lorac has one {field} for all layers, and adapts them"
            )
        elif path and path == alpha:
            book.ours(path, "as linear_alpha")


def _training(book: Ledger) -> None:
    names = ("batch_size", "gradient_accumulation_steps", "gradient_accumulation")
    parts = [path for name in names if (path := _at(book, "train", name))]
    words.set_batch(book, parts, "ai-toolkit's default of train.batch_size")
    rates = tuple(path for name in ("unet_lr", "lr") if (path := _at(book, "train", name)))
    name = _at(book, "train", "optimizer")
    kind = optimizers.carry(book, name, book.entries[name] if name else "adamw", rates)
    for place, rate in enumerate(path for path in rates if path in set(book.open())):
        book.carry("train.learning_rate", book.entries[rate], rate) if place == 0 else book.ours(
            rate, "unet_lr overrules it"
        )
    for path in book.open():
        if path[: len(PROCESS) + 2] == (*PROCESS, "train", "optimizer_params"):
            optimizers.arguments(book, path, kind, {str(path[-1]): book.entries[path]})
    if kind in (AdamW, Prodigy):
        book.assume("train.optimizer.eps", 1e-6, "ai-toolkit's own")
    optimizers.assume(book)
    _restarts(book)
    ema: Path = (*PROCESS, "train", "ema_config")
    optimizers.average(book, (*ema, "use_ema"), (*ema, "ema_decay"), 0.999, "ai-toolkit")


def _restarts(book: Ledger) -> None:
    """ai-toolkit's restarts come after all steps, so there are none, unless its lr_scheduler_params say otherwise."""
    path = _at(book, "train", "lr_scheduler")
    if path is None or str(book.entries[path]).lower() != "cosine_with_restarts":
        return
    given: Path = (*PROCESS, "train", "lr_scheduler_params")
    if any(one[: len(given)] == given and is_on(book.entries[one]) for one in book.entries):
        book.refuse("train.scheduler", path, "lr_scheduler_params say when it restarts: set train.cycles")
    else:
        book.carry("train.scheduler", "cosine", path)


def _resolution(book: Ledger) -> None:
    """A list trains every picture at each size, as data.more_resolutions does."""
    path = _at(book, "datasets", 0, "resolution")
    if not path:
        return
    sizes = book.entries[path] if isinstance(book.entries[path], list) else [book.entries[path]]
    largest = max(sizes, key=lambda size: number_or(size, 0), default=512)
    if book.carry("data.resolution", largest, path) and len(sizes) > 1:
        book.carry("data.more_resolutions", [side for side in sizes if side != largest], path)


def _family(book: Ledger) -> None:
    arch = _at(book, "model", "arch")
    if arch:
        said = str(book.entries[arch]).partition(":")[0]
        book.family(FAMILIES.get(said, said), arch)
    for path in book.open():
        name = str(path[-1])
        if path[:-1] == (*PROCESS, "model") and name.startswith("is_") and name != "is_v_pred":
            said = FAMILIES.get(name, name.removeprefix("is_"))
            book.family(said, path) if is_on(book.entries[path]) else book.ours(path, "not this family")
        elif path[: len(PROCESS) + 2] == (*PROCESS, "model", "model_kwargs"):
            book.left(path, "an argument of one architecture")


def _prompts(book: Ledger) -> None:
    """`samples` (each with its own options) is the newer form of `prompts`; the trigger is put in."""
    found = [path for path in book.open() if path[: len(PROCESS) + 2] == (*PROCESS, "sample", "samples")]
    prompts = [path for path in found if path[-1] == "prompt"]
    if prompts:
        book.carry("samples.prompts", tuple(_called(book, book.entries[path]) for path in prompts), *prompts)
    for path in found:
        if path not in prompts:
            book.left(path, "lorac draws all prompts alike")
    plain = _at(book, "sample", "prompts")
    if plain and isinstance(book.entries[plain], list) and not prompts:
        book.carry("samples.prompts", tuple(_called(book, one) for one in book.entries[plain]), plain)


def _called(book: Ledger, prompt: Any) -> Any:
    """A prompt with the trigger for `[trigger]`."""
    triggers = [_at(book, "trigger_word"), _at(book, "datasets", 0, "trigger_word")]
    words_ = next((str(book.entries[path]) for path in triggers if path and book.entries[path]), "")
    return prompt.replace("[trigger]", words_).strip() if isinstance(prompt, str) else prompt
