"""Small configs of each trainer, written for these tests with the keys that the trainers have."""

from __future__ import annotations

ORIGINAL = """\
model:
  base_model: models/v1-5.safetensors
data:
  train_data_dir: data/cyberpunk
  metadata_path: data/cyberpunk/metadata.csv
  resolution: 512
lora:
  rank: 8
  alpha: 16
  dropout: 0.1
  target_modules: [to_q, to_k, to_v]
  init: gaussian
training:
  batch_size: 2
  gradient_accumulation_steps: 4
  gradient_checkpointing: true
  epochs: 10
  learning_rate: 2e-4
  scheduler: cosine
  optimizer: adamw
  weight_decay: 0.01
  max_grad_norm: 1.0
  seed: 42
  save_steps: 100
  focal_loss: true
output_dir: output
log_dir: logs
"""

KOHYA = """\
pretrained_model_name_or_path = "models/v1-5.safetensors"
dataset_config = "data.toml"
[training]
output_name = "cats"
max_train_steps = 1000
gradient_accumulation_steps = 2
mixed_precision = "bf16"
clip_skip = 2
xformers = true
seed = 7
[optimizer]
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.95"]
unet_lr = 1e-4
text_encoder_lr = 5e-5
lr_scheduler = "cosine"
lr_warmup_steps = 0.1
[network]
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
"""

KOHYA_DATA = """\
[general]
caption_extension = ".caption"
flip_aug = true
[[datasets]]
resolution = [512, 768]
batch_size = 3
enable_bucket = true
  [[datasets.subsets]]
  image_dir = "reg"
  is_reg = true
  [[datasets.subsets]]
  image_dir = "cats"
  num_repeats = 10
  caption_extension = ".txt"
  [[datasets.subsets]]
  image_dir = "dogs"
"""

KOHYA_GUI = """\
{
  "LoRA_type": "Standard", "optimizer": "Prodigy", "optimizer_args": "d_coef=2", "learning_rate": 1.0, "unet_lr": "",
  "network_dim": 16, "network_alpha": 8, "train_batch_size": 2, "gradient_accumulation_steps": 1, "epoch": 4,
  "max_train_steps": 0, "max_train_epochs": "", "max_resolution": "512,512", "lr_scheduler": "cosine",
  "lr_warmup": 10, "pretrained_model_name_or_path": "models/v1-5.safetensors", "train_data_dir": "img",
  "sample_prompts": "a cat --w 512 --h 768 --s 20\\na dog --w 512 --h 768 --s 20", "sdxl": false, "clip_skip": "1",
  "wandb_api_key": "k3y", "shuffle_caption": true
}
"""

AI_TOOLKIT = """\
job: extension
config:
  name: cats
  process:
    - type: sd_trainer
      training_folder: output
      trigger_word: p3r5on
      network: {type: lora, linear: 16, linear_alpha: 8}
      save: {dtype: float16, save_every: 250, max_step_saves_to_keep: 4}
      datasets:
        - folder_path: img
          caption_ext: txt
          caption_dropout_rate: 0.05
          resolution: [512, 768]
        - folder_path: more
      train:
        batch_size: 2
        gradient_accumulation_steps: 3
        steps: 2000
        lr: 1e-4
        optimizer: adamw8bit
        optimizer_params: {weight_decay: 1e-4}
        dtype: bf16
        ema_config: {use_ema: true, ema_decay: 0.99}
      model: {name_or_path: models/v1-5.safetensors, is_flux: false}
      sample:
        sample_every: 250
        prompts: ["[trigger] at the beach"]
        seed: 42
"""

ONETRAINER = """\
{
  "model_type": "STABLE_DIFFUSION_15", "training_method": "LORA", "base_model_name": "models/v1-5.safetensors",
  "batch_size": 4, "learning_rate": 0.0003, "layer_filter_preset": "attn-mlp", "resolution": "512", "epochs": 20,
  "output_model_destination": "models/cats.safetensors", "unet": {"weight_dtype": "NFLOAT_4"},
  "text_encoder": {"train": false}, "concept_file_name": "concepts.json", "masked_training": true,
  "optimizer": {"optimizer": "ADAMW", "weight_decay": 0.02, "fused": true}, "loss_weight_fn": "MIN_SNR_GAMMA",
  "samples": [{"prompt": "a cat", "enabled": true, "seed": 3, "diffusion_steps": 30}]
}
"""

CONCEPTS = """\
[
  {"path": "reg", "type": "PRIOR_PREDICTION"},
  {"path": "img", "type": "STANDARD", "enabled": true, "balancing": 2, "image_variations": 3,
   "image": {"enable_random_flip": true, "enable_crop_jitter": true, "enable_random_hue": true},
   "text": {"prompt_source": "sample", "enable_tag_shuffling": true}}
]
"""

SIMPLETUNER = """\
{
  "model_family": "sd1x", "model_type": "lora", "lora_type": "standard", "lora_rank": 8, "lora_alpha": 8,
  "pretrained_model_name_or_path": "models/v1-5.safetensors", "data_backend_config": "config/multidatabackend.json",
  "output_dir": "output/cats", "max_train_steps": 500, "num_train_epochs": 0, "train_batch_size": 2,
  "gradient_accumulation_steps": 2, "learning_rate": 1e-4, "lr_scheduler": "polynomial", "lr_warmup_steps": 50,
  "optimizer": "adamw_bf16", "mixed_precision": "bf16", "validation_prompt": "a cat", "validation_steps": 100,
  "validation_resolution": "512x768", "flow_schedule_shift": 3, "push_to_hub": true
}
"""

BACKEND = """\
[
  {"id": "embeds", "dataset_type": "text_embeds", "type": "local", "cache_dir": "cache", "default": true},
  {"id": "cats", "type": "local", "instance_data_dir": "img", "caption_strategy": "textfile", "repeats": 4,
   "resolution": 0.25, "resolution_type": "area", "crop": true, "crop_aspect": "square", "crop_style": "random"}
]
"""

LLAMA_FACTORY = """\
model_name_or_path: models/llama
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj
dataset: identity,chats
template: llama3
cutoff_len: 1024
neat_packing: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
max_steps: 100
warmup_ratio: 0.1
lr_scheduler_type: cosine
bf16: true
val_size: 0.1
trust_remote_code: true
output_dir: saves/llama/sft
"""

DATASET_INFO = """\
{
  "identity": {"file_name": "identity.json", "columns": {"prompt": "question", "response": "answer"}},
  "chats": {"file_name": "chats.json", "formatting": "sharegpt", "columns": {"messages": "turns", "tools": "tools"}},
  "another": {"file_name": "another.json"}
}
"""

AXOLOTL = """\
base_model: models/llama
load_in_4bit: true
adapter: qlora
datasets:
  - path: data/alpaca.jsonl
    type: alpaca
  - path: data/chats.jsonl
    type: chat_template
    field_messages: messages
sequence_len: 2048
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 3
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
val_set_size: 0.05
wandb_project:
special_tokens: {pad_token: "<pad>"}
"""

CONFIGS: dict[str, tuple[str, dict[str, str]]] = {
    "original": (ORIGINAL, {}),
    "kohya": (KOHYA, {"data.toml": KOHYA_DATA}),
    "kohya-gui": (KOHYA_GUI, {}),
    "ai-toolkit": (AI_TOOLKIT, {}),
    "onetrainer": (ONETRAINER, {"concepts.json": CONCEPTS}),
    "simpletuner": (SIMPLETUNER, {"config/multidatabackend.json": BACKEND}),
    "llama-factory": (LLAMA_FACTORY, {"data/dataset_info.json": DATASET_INFO}),
    "axolotl": (AXOLOTL, {}),
}
"""By importer: the config, and the files that it names."""
