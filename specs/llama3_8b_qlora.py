"""Llama 3 8B by QLoRA: a chat model on one card of 8 to 24 GB, from your own conversations.

lorac fit specs/llama3_8b_qlora.py --unlocked --cards 8GB,12GB,16GB,24GB
"""

from lorac import Answers, Auto, Base, Conversations, Experiment, Fit, LoRA, Outputs, Sequences, Train

experiment = Experiment(
    name="llama3-chat",
    base=Base("../models/Meta-Llama-3-8B-Instruct", family="causal_lm", published="llama-3-8b"),
    data=Conversations("../data/conversations.jsonl"),
    sequences=Sequences(length=2048, packing=True, held_out=0.02),
    # QLoRA (Dettmers et al. 2023): every linear layer is adapted, the base is held in 4 bits.
    adapter=LoRA(rank=Auto(8, 32, prefer=32), alpha=16, dropout=0.05),
    train=Train(effective_batch=8, epochs=2, learning_rate=2e-4, warmup_steps=10),
    fit=Fit(card="12GB", quantization="nf4", optimizer_bits=Auto(choices=(32, 8))),
    samples=Answers(prompts=("Who are you?",)),
    outputs=Outputs(save_steps=100),
)
