"""What other trainers call the fields of a spec: whoever comes from one writes its names first.

The names are keys of kohya sd-scripts, diffusers' scripts, PEFT, Transformers' TrainingArguments, OneTrainer, axolotl
and LLaMA-Factory; `lorac import` reads their whole configs.
"""

from __future__ import annotations

_NAMES = {
    "base.path": "base_model base_model_name model_name model_name_or_path pretrained_model_name_or_path",
    "base.clip_skip": "text_encoder_layer_skip",
    "base.parts": "ae clip_g clip_l t5xxl text_encoder vae",
    "data.path": "dataset_dir folder_path image_dir train_data_dir",
    "data.caption_dropout": "caption_dropout_rate",
    "data.flip": "flip_aug random_flip",
    "data.keep_tags": "keep_tokens keep_tags_count",
    "data.repeats": "num_repeats dataset_repeats",
    "data.shuffle_tags": "shuffle_caption shuffle_tokens tag_shuffling",
    "data.trigger": "instance_prompt trigger_word",
    "adapter.rank": "dim linear lora_dim lora_r lora_rank network_dim r",
    "adapter.alpha": "linear_alpha lora_alpha network_alpha",
    "adapter.dropout": "lora_dropout network_dropout",
    "adapter.dora": "use_dora peft_use_dora",
    "adapter.rslora": "use_rslora peft_use_rslora",
    "adapter.targets": "lora_target lora_target_modules target_modules",
    "sequences.length": "cutoff_len max_length max_seq_len max_seq_length sequence_len",
    "sequences.packing": "sample_packing",
    "sequences.template": "chat_template",
    "sequences.held_out": "val_set_size val_size",
    "train.effective_batch": "batch_size per_device_train_batch_size total_batch_size train_batch_size",
    "train.epochs": "epoch max_train_epochs num_epochs num_train_epochs",
    "train.steps": "max_steps max_train_steps num_steps train_steps",
    "train.learning_rate": "lr unet_lr",
    "train.text_encoder_learning_rate": "text_encoder_lr",
    "train.lora_plus_ratio": "loraplus_lr_ratio",
    "train.scheduler": "learning_rate_scheduler lr_scheduler lr_scheduler_type",
    "train.warmup_steps": "learning_rate_warmup_steps lr_warmup_steps",
    "train.cycles": "learning_rate_cycles lr_scheduler_num_cycles num_cycles",
    "train.decay_steps": "lr_decay_steps num_decay_steps",
    "train.min_ratio": "cosine_min_lr_ratio learning_rate_min_factor lr_scheduler_min_lr_ratio min_lr_ratio",
    "train.optimizer": "optim optimizer_name optimizer_type",
    "train.max_grad_norm": "clip_grad_norm gradient_clipping",
    "train.snr_gamma": "min_snr_gamma",
    "train.noise_offset": "offset_noise_weight",
    "train.neftune_alpha": "neftune_noise_alpha",
    "fit.micro_batch": "micro_batch_size",
    "fit.compile": "torch_compile",
    "fit.accumulation": "grad_accum gradient_accumulation gradient_accumulation_steps",
    "fit.dtype": "bf16 fp16 mixed_precision train_dtype",
    "fit.quantization": "load_in_4bit load_in_8bit quantize",
    "samples.prompts": "sample_prompts validation_prompt",
    "samples.guidance": "cfg_scale guidance_scale",
    "samples.every": "sample_every sample_every_n_steps",
    "samples.every_epochs": "sample_every_n_epochs",
    "outputs.save_epochs": "save_every_n_epochs saves_per_epoch",
    "outputs.save_steps": "save_every save_every_n_steps",
    "outputs.keep_checkpoints": "save_last_n_steps save_total_limit",
}
_FIELDS = {name: field for field, names in _NAMES.items() for name in names.split()}


def field_of(name: str) -> str:
    """The dotted field of a spec that another trainer calls `name`; empty where none does."""
    return _FIELDS.get(name.lower(), "")
