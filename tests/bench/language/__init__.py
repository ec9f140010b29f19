"""lorac's language path against peft with Transformers' Trainer and TRL's SFTTrainer, on a real model."""
