"""lorac: a compiler and runner for LoRA experiments."""
