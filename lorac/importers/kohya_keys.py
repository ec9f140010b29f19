"""What each key of sd-scripts' training means to lorac, by its bare name; those that hang together are in kohya.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lorac.importers import words
from lorac.importers.ledger import OFF, IsOurs, Ledger, Ours, Table, To, Unless, bare, is_off, is_on

NOISE = "lorac's noise has one strength in a run"
TAGS = "lorac's tags lie between commas, and captions are else trained as they are"
FLOW = "a family's own timestep sampling stands"


def _prediction(value: Any) -> str:
    if is_on(value):
        return "v_prediction"
    raise IsOurs("lorac asks the base's own files")


def _tags(value: Any) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in str(value).split(",") if tag.strip())


def _clip_skip(value: Any) -> Any:
    if is_off(value, (*OFF, 1)):
        raise IsOurs("the last layer, as in lorac")
    return value


def optional(field: str) -> To:
    """A number whose 0 means off, where lorac's off is the field's default."""

    def change(value: Any) -> Any:
        if is_on(value):
            return value
        raise IsOurs("off, as in lorac")

    return To(field, change)


def switch(field: str) -> To:
    """A switch whose off is the field's default."""

    def change(value: Any) -> bool:
        if is_on(value):
            return True
        raise IsOurs("off, as in lorac")

    return To(field, change)


KEYS: Table = {
    # the base
    "pretrained_model_name_or_path": To("base.path"),
    "v2": Unless(
        "lorac recognises the family from the base's tensors",
        same="lorac recognises the family from the tensors",
    ),
    "v_parameterization": To("base.prediction_type", _prediction),
    "vae": Unless("lorac takes the base's own autoencoder"),
    "clip_skip": To("base.clip_skip", _clip_skip),
    "max_token_length": Unless(
        "captions end at the text encoder's 75 tokens", off=(*OFF, 75), same="75, as in lorac"
    ),
    "tokenizer_cache_dir": Unless("tokenizers come with the base"),
    "base_weights": Unless("lorac adapts the base as it is; merge it before"),
    "base_weights_multiplier": Unless("lorac adapts the base as it is; merge it before"),
    # the data
    "train_data_dir": To("data.path"),
    "in_json": Unless("lorac reads metadata.csv or metadata.jsonl (file_name, text); convert it"),
    "reg_data_dir": Unless(words.PRIOR),
    "resolution": To("data.resolution", words.side),
    "enable_bucket": To("data.buckets", is_on),
    "min_bucket_reso": optional("data.min_bucket"),
    "max_bucket_reso": optional("data.max_bucket"),
    "bucket_reso_steps": To("data.bucket_step"),
    "bucket_no_upscale": Unless(
        "lorac enlarges pictures that are smaller than their bucket (data.upscale) or refuses them; it makes no smaller"
        " buckets for them",
        same="carried as data.upscale=True",
    ),
    "caption_extension": To("data.caption_extension"),
    "caption_extention": To("data.caption_extension"),
    "caption_dropout_rate": To("data.caption_dropout"),
    "caption_dropout_every_n_epochs": Unless("lorac drops captions by share: data.caption_dropout"),
    "caption_tag_dropout_rate": optional("data.tag_dropout"),
    "caption_prefix": Unless("lorac puts data.trigger before captions, and nothing else"),
    "caption_suffix": Unless(TAGS),
    "caption_separator": Unless(TAGS, off=(*OFF, ","), same="a comma, as in lorac"),
    "keep_tokens": optional("data.keep_tags"),
    "keep_tokens_separator": Unless(TAGS),
    "secondary_separator": Unless(TAGS),
    "shuffle_caption": switch("data.shuffle_tags"),
    "enable_wildcard": Unless(TAGS),
    "weighted_captions": Unless(TAGS),
    "dataset_repeats": To("data.repeats"),
    "flip_aug": To("data.flip", is_on),
    "color_aug": Unless("it turns hues a little, now and then; lorac has data.hue_jitter, such as 0.04"),
    "random_crop": switch("data.random_crop"),
    "face_crop_aug_range": Unless("lorac does not look for faces: data.random_crop, data.random_zoom"),
    "masked_loss": Unless(words.MASKS),
    "alpha_mask": switch("data.alpha_mask"),
    "conditioning_data_dir": Unless(words.MASKS),
    "resize_interpolation": Unless("lorac has one way of resizing"),
    "cache_info": Ours(words.CACHED),
    "debug_dataset": Unless("`lorac plan` shows what is wrong with the data"),
    # the adapter
    "network_dropout": optional("adapter.dropout"),
    "network_weights": Unless("lorac begins an adapter anew"),
    "dim_from_weights": Unless("lorac begins an adapter anew"),
    "network_train_unet_only": To("adapter.text_encoder", lambda value: not is_on(value)),
    "network_train_text_encoder_only": Unless("lorac always trains the denoiser"),
    "scale_weight_norms": Unless("lorac does not limit the norm of weights"),
    # the training
    "lr_scheduler_power": To("train.power"),
    "lr_scheduler_type": Unless("lorac has its own schedulers only"),
    "lr_scheduler_args": Unless("lorac has its own schedulers only"),
    "lr_decay_steps": Ours("off, as in lorac"),
    "lr_scheduler_timescale": Unless("lorac has its own schedulers only"),
    "lr_scheduler_min_lr_ratio": Ours("the curve ends at zero, as in lorac"),
    "lr_scheduler_num_cycles": Ours("once, as in lorac"),
    "use_8bit_adam": Unless("optimizer_type overrules it"),
    "use_lion_optimizer": Unless("optimizer_type overrules it"),
    "fused_backward_pass": Ours(words.PLANNER),
    "max_grad_norm": To("train.max_grad_norm"),
    "seed": To("train.seed"),
    "min_snr_gamma": optional("train.snr_gamma"),
    "noise_offset": To("train.noise_offset"),
    "noise_offset_random_strength": Unless(NOISE),
    "multires_noise_iterations": optional("train.pyramid_iterations"),
    "multires_noise_discount": To("train.pyramid_discount"),
    "adaptive_noise_scale": Unless(NOISE),
    "ip_noise_gamma": optional("train.input_perturbation"),
    "ip_noise_gamma_random_strength": Unless(NOISE),
    "zero_terminal_snr": switch("base.zero_terminal_snr"),
    "min_timestep": Unless("lorac draws from all timesteps"),
    "max_timestep": Unless(
        "lorac draws from all timesteps", off=(*OFF, 1000), same="all timesteps, as in lorac"
    ),
    "loss_type": To("train.loss"),
    "huber_schedule": To("train.huber_schedule"),
    "huber_c": To("train.huber_c"),
    "huber_scale": Unless("lorac has huber_c alone", off=(*OFF, 1), same="1, as in lorac"),
    "scale_v_pred_loss_like_noise_pred": Unless("lorac weighs losses by snr_gamma alone"),
    "v_pred_like_loss": Unless("lorac weighs losses by snr_gamma alone"),
    "debiased_estimation_loss": switch("train.debiased"),
    "prior_loss_weight": Ours("it matters for regularisation pictures alone: Folder has loss_weight"),
    "weighting_scheme": Unless(FLOW),
    "logit_mean": Unless(FLOW),
    "logit_std": Unless(FLOW),
    "mode_scale": Unless(FLOW),
    "timestep_sampling": Unless(FLOW),
    "sigmoid_scale": Unless(FLOW),
    "discrete_flow_shift": Unless(FLOW),
    "model_prediction_type": Unless(FLOW),
    "guidance_scale": Unless("a family's own guidance embedding stands"),
    "apply_t5_attn_mask": Unless("a family's own encoding of captions stands"),
    "t5xxl_max_token_length": Unless("a family's own encoding of captions stands"),
    # the card
    "mixed_precision": To("fit.dtype", words.dtype),
    "full_fp16": Unless("lorac's adapter is fp32 while it is trained"),
    "full_bf16": Unless("lorac's adapter is fp32 while it is trained"),
    "fp8_base": Unless("lorac holds the base in int8 or nf4: fit.quantization"),
    "fp8_base_unet": Unless("lorac holds the base in int8 or nf4: fit.quantization"),
    "no_half_vae": Ours("lorac encodes pictures in float32"),
    "gradient_checkpointing": Ours(words.PLANNER),
    "cpu_offload_checkpointing": Ours(words.PLANNER),
    "blocks_to_swap": Ours(words.PLANNER),
    "lowram": Ours(words.PLANNER),
    "highvram": Ours(words.PLANNER),
    "mem_eff_attn": Ours(words.ATTENTION),
    "xformers": Ours(words.ATTENTION),
    "sdpa": Ours(words.ATTENTION),
    "split_attn": Ours(words.ATTENTION),
    "torch_compile": Unless(words.EAGER),
    "dynamo_backend": Ours(words.HOW_COMPILED),
    "cache_latents": Ours(words.CACHED),
    "cache_latents_to_disk": Ours(words.CACHED),
    "cache_text_encoder_outputs": Ours(words.CACHED),
    "cache_text_encoder_outputs_to_disk": Ours(words.CACHED),
    "skip_cache_check": Ours(words.CACHED),
    "vae_batch_size": Ours(words.CACHED),
    "text_encoder_batch_size": Ours(words.CACHED),
    "max_data_loader_n_workers": Ours(words.LOADING),
    "persistent_data_loader_workers": Ours(words.LOADING),
    "disable_mmap_load_safetensors": Ours(words.LOADING),
    "ddp_timeout": Ours("set fit.processes for several cards"),
    "ddp_gradient_as_bucket_view": Ours("set fit.processes for several cards"),
    "ddp_static_graph": Ours("set fit.processes for several cards"),
    # what is drawn
    "sample_prompts": Unless("prompts lie in a file of their own: copy them to samples.prompts"),
    "sample_every_n_steps": optional("samples.every"),
    "sample_every_n_epochs": optional("samples.every_epochs"),
    "sample_at_first": Unless("lorac draws at checkpoints"),
    "sample_sampler": Ours("each family has one sampler"),
    # what is written
    "output_dir": To("outputs.output_dir"),
    "output_name": To("name"),
    "logging_dir": To("outputs.log_dir"),
    "log_prefix": Ours(words.LOGGING),
    "log_with": Ours(words.LOGGING),
    "log_tracker_name": Ours(words.LOGGING),
    "log_tracker_config": Ours(words.LOGGING),
    "log_config": Ours(words.LOGGING),
    "wandb_run_name": Ours(words.LOGGING),
    "wandb_api_key": Unless(words.SECRET),
    "save_model_as": Unless(words.SAFETENSORS, off=(*OFF, "safetensors"), same=words.SAFETENSORS),
    "save_precision": To("outputs.dtype", words.dtype),
    "save_every_n_steps": optional("outputs.save_steps"),
    "save_every_n_epochs": optional("outputs.save_epochs"),
    "save_n_epoch_ratio": Unless("lorac saves each so many epochs: set outputs.save_epochs"),
    "save_last_n_epochs": optional("outputs.keep_checkpoints"),
    "save_last_n_epochs_state": Unless("set outputs.keep_checkpoints"),
    "save_last_n_steps": Unless("set outputs.keep_checkpoints"),
    "save_last_n_steps_state": Unless("set outputs.keep_checkpoints"),
    "save_state": Ours("every checkpoint can be gone on from"),
    "save_state_on_train_end": Ours("every checkpoint can be gone on from"),
    "resume": Unless(words.RESUME),
    "skip_until_initial_step": Ours(words.RESUME),
    "initial_epoch": Unless(words.RESUME),
    "initial_step": Unless(words.RESUME),
    "no_metadata": Unless("lorac always writes what WebUI and ComfyUI show"),
    "training_comment": To("outputs.notes"),
    "metadata_title": Ours("the title is the experiment's name"),
    "metadata_author": To("outputs.author"),
    "metadata_description": To("outputs.description"),
    "metadata_license": To("outputs.license"),
    "metadata_tags": To("outputs.tags", _tags),
    "huggingface_repo_id": Unless(words.HUB),
    "huggingface_repo_type": Unless(words.HUB),
    "huggingface_path_in_repo": Unless(words.HUB),
    "huggingface_repo_visibility": Unless(words.HUB),
    "huggingface_token": Unless(words.SECRET),
    "save_state_to_huggingface": Unless(words.HUB),
    "resume_from_huggingface": Unless(words.HUB),
    "async_upload": Ours(words.HUB),
    "validation_split": optional("data.held_out"),
    "validation_seed": Ours("lorac measures with noise that is the same each time"),
    "validate_every_n_steps": Ours(words.CHECKPOINTS),
    "validate_every_n_epochs": Ours(words.CHECKPOINTS),
    "max_validation_steps": Ours("lorac measures all that is held out"),
    **dict.fromkeys(
        ("max_train_epochs", "max_train_steps", "unet_lr", "learning_rate", "text_encoder_lr"),
        Ours("not set"),
    ),
    "no_token_padding": Unless("a family's own encoding of captions stands"),
    "fused_optimizer_groups": Ours(words.PLANNER),
    "blockwise_fused_optimizers": Ours(words.PLANNER),
    "double_blocks_to_swap": Ours(words.PLANNER),
    "single_blocks_to_swap": Ours(words.PLANNER),
    "loraplus_lr_ratio": optional("train.lora_plus_ratio"),
    "loraplus_unet_lr_ratio": optional("train.lora_plus_ratio"),
    "loraplus_text_encoder_lr_ratio": Unless("lorac has one ratio: train.lora_plus_ratio"),
    "config_file": Ours("this file"),
    "output_config": Ours("the plan is such a file"),
}


MOVERS = (
    *("shuffle_caption", "caption_tag_dropout_rate"),
    *("shuffle_tokens", "token_dropout_rate"),
    "enable_tag_shuffling",
)
"""What sd-scripts, ai-toolkit and OneTrainer call the shuffling and leaving out of tags."""


def _moves_tags(said: Mapping[str, Any]) -> bool:
    return any(is_on(said.get(name, False)) for name in MOVERS)


def _has_threshold(said: Mapping[str, Any]) -> bool:
    return str(said.get("loss_type")).lower() in ("huber", "smooth_l1")


def _is_a_pyramid(said: Mapping[str, Any]) -> bool:
    return is_on(said.get("multires_noise_iterations", 0))


HANGING: dict[str, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    **dict.fromkeys(("keep_tokens", "keep_tags_count"), (_moves_tags, "it matters for shuffled tags alone")),
    "multires_noise_discount": (_is_a_pyramid, "it matters for multires_noise_iterations alone"),
    **dict.fromkeys(
        ("huber_schedule", "huber_c", "huber_scale"), (_has_threshold, "it matters for the Huber loss alone")
    ),
}
"""Keys that say something only where another is on, and what that is."""


def settle_hanging(book: Ledger, prefix: str = "") -> None:
    """Settle the keys that hang on one that is off."""
    names = {path: bare(path).removeprefix(prefix) for path in book.entries}
    said = {name: book.entries[path] for path, name in names.items()}
    for path in book.open():
        if names[path] in HANGING:
            counts, why = HANGING[names[path]]
            if not counts(said):
                book.ours(path, why)


def assume_noise(book: Ledger) -> None:
    """What sd-scripts takes of a pyramid's strength where nothing is said."""
    if "train.pyramid_iterations" in book.settings:
        book.assume("train.pyramid_discount", 0.3, "kohya's default of multires_noise_discount")
