"""What each key of OneTrainer's config and of its concepts means to lorac; what hangs together is in onetrainer.py.

Names and defaults: modules/util/config/*.py of Nerogar/OneTrainer at 23df383.
"""

from __future__ import annotations

from typing import Any

from lorac.importers import words
from lorac.importers.kohya_keys import optional, switch
from lorac.importers.ledger import OFF, CannotCarry, IsOurs, Ours, Table, To, Unless, is_on, whole

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
    "QWEN": "qwen_image",
    "Z_IMAGE": "z_image",
}
DENOISERS = ("unet", "transformer", "prior")
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")

PRESETS = {"attn-mlp": "qkvo+ff", "attn-only": "qkvo", "full": "qkvo+ff+conv"}
"""layer_filter_preset -> the nearest of lorac's targets."""

MORE = {
    "attn-mlp": "took proj_in and proj_out too; lorac's presets leave them out",
    "full": "took every linear layer and convolution; lorac takes attention, feed-forward and resnets",
}
"""What a preset takes beyond that."""

ANOTHER = "another part of OneTrainer, not of the LoRA's training"
FLOW = "a family's own timestep sampling stands"
PLAIN_NOISE = "lorac's noise is plain, with noise_offset"
SQUARED = "lorac's loss is the squared error"
TAGS = "lorac trains captions as they are"
PIXELS = "lorac varies pictures by data.flip, random_crop, random_zoom, color_jitter and hue_jitter"
PART = "the part of another architecture"


def quantised(value: Any) -> str:
    """A denoiser's dtype as a quantisation of the base."""
    name = str(value).upper()
    if name == "NFLOAT_4":
        return "nf4"
    if name.startswith("INT_8"):
        return "int8"
    raise CannotCarry("lorac holds a base in fp32, bf16, fp16, int8 or nf4")


def snr(value: Any) -> float:
    """A weighting of the loss that is not min-SNR: none, or one lorac does not have."""
    name = str(value).upper()
    if name == "CONSTANT":
        raise IsOurs("all timesteps alike, as in lorac")
    raise CannotCarry("lorac weighs losses by snr_gamma alone")


def curve(value: Any) -> str:
    """lorac's name of a curve: what OneTrainer calls restarts comes back smoothly, its hard ones do not."""
    name = str(value).strip().lower()
    if name == "cosine_with_restarts":
        raise CannotCarry("it rises as it falls; lorac's cosine_with_restarts begins anew at the peak")
    return words.scheduler("cosine_with_restarts" if name == "cosine_with_hard_restarts" else value)


def clip_skip(value: Any) -> int:
    """OneTrainer counts the layers that are left out, lorac from the last one, which is 1."""
    if whole(value) == 0:
        raise IsOurs("the last layer, as in lorac")
    return whole(value) + 1


def variants(value: Any) -> int:
    """Views of a picture that are cached: one is lorac's own way where nothing is varied."""
    if whole(value) == 1:
        raise IsOurs("pictures are varied by random crops and colours alone")
    return whole(value)


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
    "learning_rate_scheduler": To("train.scheduler", curve),
    "custom_learning_rate_scheduler": Unless("lorac has its own schedulers only"),
    "scheduler_params": Unless("lorac has its own schedulers only"),
    "learning_rate_cycles": optional("train.cycles"),
    "learning_rate_min_factor": optional("train.min_ratio"),
    "learning_rate_scaler": Unless(
        "lorac takes the rate as it is", off=(*OFF, "none"), same="the rate as it is, as in lorac"
    ),
    "learning_rate": To("train.learning_rate"),
    "epochs": To("train.epochs"),
    "ema": Ours("off, as in lorac"),
    "ema_decay": Ours("it matters for the average of weights alone"),
    "ema_update_step_interval": Ours("lorac averages after each step"),
    "dataloader_threads": Ours(words.LOADING),
    "train_device": Ours("lorac takes the card that fit.card names"),
    "temp_device": Ours(words.PLANNER),
    "multi_gpu": Unless("set fit.processes for several cards"),
    "device_indexes": Unless("set fit.processes for several cards"),
    "train_dtype": To("fit.dtype", words.dtype),
    "fallback_train_dtype": Ours("lorac's step has one dtype"),
    "enable_autocast_cache": Ours("lorac's step runs without autocast"),
    "attention_mechanism": Ours(words.ATTENTION),
    "compile": Unless(words.EAGER),
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
    "rescale_noise_scheduler_to_zero_terminal_snr": switch("base.zero_terminal_snr"),
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
    "text_encoder_layer_skip": To("base.clip_skip", clip_skip),
    "text_encoder_2_layer_skip": Unless("lorac takes the text encoder's own layer"),
    "text_encoder_3_layer_skip": Unless("lorac takes the text encoder's own layer"),
    "text_encoder_4_layer_skip": Unless("lorac takes the text encoder's own layer"),
    "text_encoder_sequence_length": Ours("the family says how long captions are"),
    "text_encoder_2_sequence_length": Ours("the family says how long captions are"),
    "masked_training": Unless(words.MASKS),
    "unmasked_probability": Ours("it matters for masks alone"),
    "unmasked_weight": Ours("it matters for masks alone"),
    "normalize_masked_area_loss": Ours("it matters for masks alone"),
    "masked_prior_preservation_weight": Ours("it matters for masks alone"),
    "custom_conditioning_image": Unless("lorac trains on pictures and captions alone"),
    "layer_filter": Unless("adapter.targets takes a regex of whole names"),
    "layer_filter_regex": Unless("adapter.targets takes a regex of whole names"),
    "preserve_embedding_norm": Unless("lorac lets a word's vectors grow"),
    "embedding_weight_dtype": Ours("a word's vectors are trained in float32"),
    "additional_embeddings": Unless("it is no list of words with vectors of their own"),
    "bundle_additional_embeddings": Ours("lorac writes a file for each word, which all programs read"),
    "peft_type": Unless("lorac trains LoRA", off=("LORA",), same="LoRA, lorac's own method"),
    "lora_model_name": Unless("lorac begins an adapter anew"),
    "lora_rank": To("adapter.rank"),
    "lora_alpha": To("adapter.alpha"),
    "lora_decompose": switch("adapter.dora"),
    "lora_decompose_norm_epsilon": Ours("it matters for DoRA alone"),
    "lora_decompose_output_axis": Ours("it matters for DoRA alone"),
    "lora_weight_dtype": Unless(
        "lorac's adapter is fp32 while it is trained", off=("FLOAT_32", None), same="fp32, as in lorac"
    ),
    "frames": Ours("it matters for videos alone"),
    "tensorboard": Ours(words.LOGGING),
    "samples_to_tensorboard": Ours(words.LOGGING),
    "validation": Unless("lorac holds out a share of the pictures: data.held_out"),
    "validate_after": Ours("it matters for validation alone"),
    "validate_after_unit": Ours("it matters for validation alone"),
    "sample_definition_file_name": Unless("prompts lie in a file of their own: copy them to samples.prompts"),
    "sample_skip_first": Ours("lorac draws at checkpoints"),
    "sample_image_format": Ours("lorac draws PNG"),
    "non_ema_sampling": Ours("lorac samples what it exports"),
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
    "type": Unless(words.PRIOR, off=("STANDARD", None), same="pictures to learn"),
    "include_subdirectories": Ours("lorac reads subfolders"),
    "image_variations": To("data.picture_variants", variants),
    "text_variations": Ours("lorac trains captions as they are"),
    "balancing": To("data.repeats"),
    "loss_weight": Unless(words.WEIGHTS, off=(None, 1), same="1, as in lorac"),
    "concept_stats": Ours("figures of OneTrainer's window"),
    "image.enable_random_flip": To("data.flip", is_on),
    "image.enable_crop_jitter": switch("data.random_crop"),
    "image.enable_resolution_override": Unless("set data.resolution"),
    "image.resolution_override": Ours("it matters for enable_resolution_override alone"),
    "text.prompt_source": Unless(
        "lorac reads a text file beside each picture, metadata.csv or metadata.jsonl",
        off=("sample", None),
        same="a text file beside each picture",
    ),
    "text.prompt_path": Unless("lorac reads a text file beside each picture, metadata.csv or metadata.jsonl"),
    "text.enable_tag_shuffling": switch("data.shuffle_tags"),
    "text.tag_delimiter": Unless(
        "lorac's tags lie between commas", off=(*OFF, ","), same="a comma, as in lorac"
    ),
    "text.keep_tags_count": optional("data.keep_tags"),
    "text.tag_dropout_enable": Unless(TAGS),
    "text.caps_randomize_enable": Unless(TAGS),
}
