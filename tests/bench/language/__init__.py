"""lorac's language path against peft with Transformers' Trainer, TRL's SFTTrainer and LitGPT, on a real model."""
