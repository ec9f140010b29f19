"""Qwen2.5 7B on your own instructions: in bf16 where the card has room for it, else in 8 or 4 bits.

lorac fit specs/qwen_7b.py --unlocked --cards 12GB,16GB,24GB,48GB
"""

from lorac import Auto, Base, Experiment, Fit, Instructions, LoRA, Outputs, Sequences, Train

experiment = Experiment(
    name="qwen-instruct",
    base=Base("../models/Qwen2.5-7B-Instruct", family="causal_lm", published="qwen2.5-7b"),
    data=Instructions("../data/instructions.jsonl"),
    sequences=Sequences(length=1024, packing=True, held_out=0.05),
    adapter=LoRA(rank=16, alpha=32),
    train=Train(effective_batch=16, epochs=3, learning_rate=1e-4, warmup_steps=20),
    fit=Fit(card="24GB", quantization=Auto(choices=("none", "int8", "nf4"))),
    outputs=Outputs(save_steps=200),
)
