"""bghira's SimpleTuner: config.json with its multidatabackend.json. Names and defaults: documentation/OPTIONS.md,
documentation/DATALOADER.md and the field registry of simpletuner_sdk at bc8e6ab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import optimizers, words
from lorac.importers.kohya_keys import optional, switch
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
    bare,
    is_on,
    ledger,
    number,
    whole,
)

TITLE = "SimpleTuner's config"

FAMILIES = {
    "sd1x": "sd1",
    "sd2x": "sd2",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux1",
    "qwen_image": "qwen_image",
    "z_image": "z_image",
    "z-image": "z_image",
}
BACKEND = "data_backend_config"
FLOW = "a family's own timestep sampling stands"
PLAIN = "lorac trains LoRA on linear layers and convolutions (lora_type standard)"


def _precision(value: Any) -> Any:
    name = str(value).lower()
    if name in ("no_change", "none", ""):
        raise IsOurs("the base as it is, as in lorac")
    if name.startswith("int8"):
        return "int8"
    if "nf4" in name:
        return "nf4"
    raise CannotCarry("lorac holds a base as it is, in int8 or in nf4: fit.quantization")


def _clip_method(value: Any) -> Any:
    if str(value).lower() == "norm":
        raise IsOurs("the norm, as in lorac")
    raise CannotCarry("lorac clips the gradient's norm")


def _zero_is_once(value: Any) -> int:
    """SimpleTuner's repeats come on top of the first time."""
    return whole(value) + 1


def _is_random(value: Any) -> bool:
    """Where SimpleTuner crops."""
    if value == "random":
        return True
    if value in ("center", "centre", *OFF):
        raise IsOurs("at the centre, as in lorac")
    raise CannotCarry("lorac crops at the centre, or at random: data.random_crop")


def _curve(value: Any) -> str:
    if str(value).lower() == "cosine_with_restarts":
        raise CannotCarry("SimpleTuner itself says that it does not do what is expected")
    return words.scheduler(value)


TABLE: Table = {
    "model_type": Unless("lorac trains LoRAs", off=("lora",), same="a LoRA"),
    "lora_type": Unless(PLAIN, off=("standard", *OFF), same="LoRA, lorac's own method"),
    "lycoris_config": Unless(PLAIN),
    "lora_rank": To("adapter.rank"),
    "lora_alpha": To("adapter.alpha"),
    "lora_dropout": optional("adapter.dropout"),
    "lora_format": Ours("lorac writes kohya's and diffusers' names"),
    "init_lora": Unless("lorac begins an adapter anew"),
    "use_dora": switch("adapter.dora"),
    "flux_lora_target": Unless(
        "adapter.targets has presets, or takes a regex", off=("all", *OFF), same="carried as qkvo"
    ),
    "pretrained_model_name_or_path": To("base.path"),
    "pretrained_vae_model_name_or_path": Unless("lorac takes the base's own autoencoder"),
    "model_flavour": Unless("the base's path says which"),
    "prediction_type": To("base.prediction_type"),
    "base_model_precision": To("fit.quantization", _precision),
    "base_model_default_dtype": To("fit.dtype", words.dtype),
    "quantize_via": Ours(words.PLANNER),
    "text_encoder_1_precision": Ours("encoders leave the card once captions are encoded"),
    "text_encoder_2_precision": Ours("encoders leave the card once captions are encoded"),
    "mixed_precision": To("fit.dtype", words.dtype),
    "learning_rate": To("train.learning_rate"),
    "text_encoder_lr": To("train.text_encoder_learning_rate"),
    "train_text_encoder": To("adapter.text_encoder", is_on),
    "lr_scheduler": To("train.scheduler", _curve),
    "lr_warmup_steps": To("train.warmup_steps"),
    "lr_power": To("train.power"),
    "lr_num_cycles": Unless("lorac's cosine does not restart", off=(*OFF, 1), same="one cycle, as in lorac"),
    "lr_end": Unless("lorac's curves end at zero"),
    "max_grad_norm": To("train.max_grad_norm"),
    "grad_clip_method": To("train.max_grad_norm", _clip_method),
    "adam_beta1": To("train.optimizer.beta1"),
    "adam_beta2": To("train.optimizer.beta2"),
    "optimizer_beta1": To("train.optimizer.beta1"),
    "optimizer_beta2": To("train.optimizer.beta2"),
    "adam_epsilon": To("train.optimizer.eps"),
    "adam_weight_decay": To("train.optimizer.weight_decay"),
    "seed": To("train.seed"),
    "snr_gamma": optional("train.snr_gamma"),
    "use_soft_min_snr": Unless("lorac weighs losses by snr_gamma alone"),
    "noise_offset": To("train.noise_offset"),
    "offset_noise": Ours("noise_offset says how much"),
    "input_perturbation": optional("train.input_perturbation"),
    "loss_type": Unless(
        "lorac's loss is the squared error", off=("l2", *OFF), same="the squared error, as in lorac"
    ),
    "caption_dropout_probability": To("data.caption_dropout"),
    "resolution": Ours("the data set's own resolution counts"),
    "resolution_type": Ours("the data set's own resolution counts"),
    "minimum_image_size": Unless(
        "lorac refuses pictures that are too small, or enlarges them (data.upscale)"
    ),
    "maximum_image_size": Ours("lorac resizes every picture to its bucket"),
    "aspect_bucket_rounding": Ours("lorac's buckets are multiples of data.bucket_step"),
    "aspect_bucket_alignment": To("data.bucket_step"),
    "disable_bucket_pruning": Ours("lorac drops no picture"),
    "allow_dataset_oversubscription": Ours("lorac drops no picture"),
    "delete_problematic_images": Unless("lorac deletes nothing; data.skip_bad leaves pictures out"),
    "flow_schedule_shift": Unless(FLOW),
    "flow_schedule_auto_shift": Unless(FLOW),
    "flow_use_uniform_schedule": Unless(FLOW),
    "flow_use_beta_schedule": Unless(FLOW),
    "flux_guidance_mode": Unless("a family's own guidance embedding stands"),
    "flux_guidance_value": Unless("a family's own guidance embedding stands"),
    "controlnet": Unless("lorac trains LoRAs"),
    "use_ema": Ours("off, as in lorac"),
    "ema_decay": Ours("it matters for the average of weights alone"),
    "ema_device": Ours("it matters for the average of weights alone"),
    "ema_cpu_only": Ours("it matters for the average of weights alone"),
    "ema_update_interval": Ours("it matters for the average of weights alone"),
    "ema_validation": Ours("it matters for the average of weights alone"),
    "gradient_checkpointing": Ours(words.PLANNER),
    "gradient_checkpointing_interval": Ours(words.PLANNER),
    "gradient_checkpointing_backend": Ours(words.PLANNER),
    "offload_during_startup": Ours(words.PLANNER),
    "musubi_blocks_to_swap": Ours(words.PLANNER),
    "ramtorch": Ours(words.PLANNER),
    "fuse_qkv_projections": Ours(words.ATTENTION),
    "attention_mechanism": Ours(words.ATTENTION),
    "dynamo_backend": Unless(words.EAGER, off=(*OFF, "no")),
    "dynamo_mode": Ours(words.HOW_COMPILED),
    "dynamo_use_regional_compilation": Ours(words.HOW_COMPILED),
    "num_processes": Unless(
        "set fit.processes for several cards", off=(*OFF, 1), same="one process, as in lorac"
    ),
    "vae_batch_size": Ours(words.CACHED),
    "vae_enable_tiling": Ours(words.CACHED),
    "vae_enable_slicing": Ours(words.CACHED),
    "text_encoder_batch_size": Ours(words.CACHED),
    "compress_disk_cache": Ours(words.CACHED),
    "cache_dir": Ours(words.CACHED),
    "skip_file_discovery": Ours(words.CACHED),
    "validation_prompt": To("samples.prompts", lambda value: (value,)),
    "validation_negative_prompt": To("samples.negative_prompt"),
    "validation_seed": To("samples.seed"),
    "validation_num_inference_steps": To("samples.steps"),
    "validation_guidance": To("samples.guidance"),
    "validation_guidance_real": Unless("a family's own guidance stands", off=(*OFF, 1)),
    "validation_guidance_rescale": Unless("lorac draws with plain guidance"),
    "validation_steps": To("samples.every"),
    "validation_step_interval": To("samples.every"),
    "validation_prompt_library": Unless("copy the prompts to samples.prompts"),
    "user_prompt_library": Unless("copy the prompts to samples.prompts"),
    "validation_disable_unconditional": Ours("lorac draws the prompts alone"),
    "validation_disable": Unless("leave samples.prompts out to draw nothing"),
    "validation_torch_compile": Ours("it matters for samples alone"),
    "num_validation_images": Unless("lorac draws each prompt once", off=(*OFF, 1), same="once, as in lorac"),
    "num_eval_images": Ours("it matters for an evaluation alone"),
    "eval_steps_interval": Unless("lorac holds out a share of the pictures: data.held_out"),
    "evaluation_type": Unless("lorac holds out a share of the pictures: data.held_out"),
    "checkpoint_step_interval": optional("outputs.save_steps"),
    "checkpointing_steps": optional("outputs.save_steps"),
    "checkpoints_total_limit": To("outputs.keep_checkpoints"),
    "resume_from_checkpoint": Ours(words.RESUME),
    "report_to": Ours(words.LOGGING),
    "tracker_project_name": Ours(words.LOGGING),
    "hub_model_id": Ours(words.HUB),
    "push_to_hub": Unless(words.HUB),
    "push_checkpoints_to_hub": Unless(words.HUB),
    "disable_benchmark": Ours("lorac draws the base's pictures beside the LoRA's"),
    "strict_epoch_limit": Ours("lorac ends where train.epochs or train.steps says"),
    "trust_remote_code": Unless("lorac runs no code of a model"),
    "ignore_final_epochs": Ours("lorac ends where train.epochs or train.steps says"),
}

DATA: Table = {
    "id": Ours("the folder says which"),
    "type": Unless("lorac reads a folder on this machine", off=("local",), same="a folder on this machine"),
    "dataset_type": Unless("lorac trains on pictures", off=("image", *OFF), same="pictures"),
    "dataset_name": Unless("a data set of the hub: lorac reads a folder on this machine"),
    "instance_data_dir": To("data.path"),
    "caption_strategy": Unless(
        "lorac reads a text file beside each picture, metadata.csv or metadata.jsonl",
        off=("textfile", *OFF),
        same="a text file beside each picture",
    ),
    "instance_prompt": To("data.trigger"),
    "prepend_instance_prompt": To("data.prepend_trigger", is_on),
    "only_instance_prompt": Unless("write the captions; lorac reads one for each picture"),
    "repeats": To("data.repeats", _zero_is_once),
    "resolution_type": Ours("carried with resolution"),
    "crop": Ours("lorac crops to its bucket"),
    "crop_style": To("data.random_crop", _is_random),
    "minimum_image_size": Unless(
        "lorac refuses pictures that are too small, or enlarges them (data.upscale)"
    ),
    "maximum_image_size": Ours("lorac resizes every picture to its bucket"),
    "target_downsample_size": Ours("lorac resizes every picture to its bucket"),
    "metadata_backend": Ours(words.CACHED),
    "cache_dir": Ours(words.CACHED),
    "cache_dir_vae": Ours(words.CACHED),
    "cache_file_suffix": Ours(words.CACHED),
    "text_embeds": Ours(words.CACHED),
    "preserve_data_backend_cache": Ours(words.CACHED),
    "vae_cache_clear_each_epoch": Ours(words.CACHED),
    "skip_file_discovery": Ours(words.CACHED),
    "hash_filenames": Ours(words.CACHED),
    "is_regularisation_data": Unless(words.PRIOR),
    "is_regularization_data": Unless(words.PRIOR),
    "disabled": Ours("not disabled"),
    "caption_dropout_probability": To("data.caption_dropout"),
}


def recognise(config: Any) -> bool:
    if not isinstance(config, Mapping):
        return False
    names = {str(key).lstrip("-") for key in config}
    return "model_family" in names and bool(names & {BACKEND, "model_type", "train_batch_size", "lora_type"})


def companions(config: Any) -> dict[str, str]:
    for key, value in config.items():
        if str(key).lstrip("-") == BACKEND and isinstance(value, str):
            return {BACKEND: value}
    return {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = ledger(config)
    keys = {_name(path): path for path in book.entries}
    backend = companions.get(BACKEND)
    if isinstance(backend, list):
        book.entries |= ledger(backend, (BACKEND,)).entries
        book.ours(keys[BACKEND], "read: its keys are listed as data_backend_config[…]")
        _data(book)
    elif BACKEND in keys:
        book.left(keys[BACKEND], "the file was not found, so its keys were not read")
    size = keys.get("resolution")
    if size and "data.resolution" not in book.settings:
        kind = keys.get("resolution_type")
        _resolution(book, size, book.entries[kind] if kind else "pixel_area")
    _training(book, keys)
    _named(book, keys)
    if drawn := keys.get("validation_resolution"):
        _picture_size(book, drawn)
    if (
        "samples.prompts" not in book.settings
        and (prompt := keys.get("validation_prompt"))
        and not is_on(book.entries[prompt])
    ):
        book.left(prompt, "empty")
    family = keys.get("model_family")
    if family:
        said = str(book.entries[family])
        book.family(FAMILIES.get(said, said), family)
    book.settle(TABLE, _name)
    for field, value, name in (
        ("train.scheduler", "constant", "lr_scheduler"),
        ("train.max_grad_norm", 2.0, "max_grad_norm"),
        ("adapter.rank", 16, "lora_rank"),
        ("adapter.dropout", 0.1, "lora_dropout"),
        ("data.caption_dropout", 0.1, "caption_dropout_probability"),
        ("outputs.save_steps", 500, "checkpoint_step_interval"),
    ):
        book.assume(field, value, f"SimpleTuner's default of {name}")
    book.assume("data.upscale", True, "SimpleTuner enlarges small pictures")
    book.assume("adapter.targets", "qkvo", "what SimpleTuner adapts")
    return book.draft()


def _name(path: Path) -> str:
    """Older configs begin keys with `--`."""
    return bare(path).lstrip("-")


def _training(book: Ledger, keys: dict[str, Path]) -> None:
    steps, epochs = keys.get("max_train_steps"), keys.get("num_train_epochs")
    if steps and is_on(book.entries[steps]):
        book.carry("train.steps", book.entries[steps], steps)
        if epochs:
            book.ours(epochs, "max_train_steps ends the training")
    elif epochs and is_on(book.entries[epochs]):
        book.carry("train.epochs", book.entries[epochs], epochs)
        if steps:
            book.ours(steps, "num_train_epochs ends the training")
    paths = [keys[name] for name in ("train_batch_size", "gradient_accumulation_steps") if name in keys]
    words.set_batch(book, paths, "SimpleTuner's default of train_batch_size")
    name = keys.get("optimizer")
    rates = (keys["learning_rate"],) if "learning_rate" in keys else ()
    if name and optimizers.carry(book, name, book.entries[name], rates) is None:
        for other in ("adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "optimizer_config"):
            if other in keys:
                book.left(keys[other], "arguments of an optimizer that lorac does not have")
    if "use_ema" in keys:
        optimizers.average(book, keys["use_ema"], keys.get("ema_decay", ()), 0.995, "SimpleTuner")


def _named(book: Ledger, keys: dict[str, Path]) -> None:
    """The run's name is its folder's; without one, the tracker's."""
    run, folder = keys.get("tracker_run_name"), keys.get("output_dir")
    if folder:
        words.set_place(book, folder)
    if run:
        book.ours(run, words.LOGGING) if folder else book.carry("name", book.entries[run], run)


def _picture_size(book: Ledger, path: Path) -> None:
    """`1024x1024`; of several, the first."""
    sizes = str(book.entries[path]).lower().split(",")
    sides = sizes[0].strip().split("x")
    book.carry("samples.width", sides[0], path)
    book.carry("samples.height", sides[-1], path)
    if len(sizes) > 1:
        book.left(path, "lorac draws one size: the first was carried")


def _data(book: Ledger) -> None:
    """The first data set of pictures that is not for regularisation."""
    own = [path for path in book.entries if path[0] == BACKEND and len(path) > 2]
    places = list(dict.fromkeys(path[1] for path in own))

    def said(place: Any, key: str) -> Any:
        return book.entries.get((BACKEND, place, key))

    pictures = [
        place
        for place in places
        if said(place, "dataset_type") in (None, "image") and not is_on(said(place, "disabled"))
    ]
    learnt = [place for place in pictures if not is_on(said(place, "is_regularisation_data"))]
    chosen = (learnt or pictures or places)[0]
    for path in own:
        name = bare(path)
        if path[1] != chosen:
            if said(path[1], "dataset_type") in ("text_embeds", "image_embeds"):
                book.ours(path, words.CACHED)
            else:
                book.left(
                    path, "another set: lorac takes one folder. Put the sets in one, as subfolders 10_NAME"
                )
        elif name in DATA and len(path) == 3:
            book.apply(path, DATA[name])
    if (path := (BACKEND, chosen, "resolution")) in book.entries:
        _resolution(book, path, said(chosen, "resolution_type"))
    if (path := (BACKEND, chosen, "crop_aspect")) in book.entries:
        square = str(book.entries[path]) == "square"
        if square and is_on(said(chosen, "crop")):
            book.carry("data.buckets", False, path)
        else:
            book.ours(path, "buckets, as in lorac")


def _resolution(book: Ledger, path: Path, kind: Any) -> None:
    """`area` counts megapixels; `pixel` is the shorter side; `pixel_area` is lorac's own."""
    try:
        value = number(book.entries[path])
    except CannotCarry as reason:
        book.left(path, str(reason))
        return
    if str(kind) == "area":
        value = (value * 1e6) ** 0.5
    if book.carry("data.resolution", max(64, round(value / 64) * 64), path) and str(kind) == "pixel":
        book.todo.append(
            "data.resolution: it was the shorter side; lorac's is the side of a square of the same area"
        )
