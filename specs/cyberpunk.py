"""A style LoRA for Stable Diffusion 1.5 on a 12 GB card: bring your own base and 50 to 200 pictures.

Put the base at models/v1-5-pruned-emaonly.safetensors and the pictures, at least 512 px on their short side,
with a text file beside each, in data/cyberpunk/. Without them the plan can still be made and looked at:

    lorac plan specs/cyberpunk.py --unlocked
    lorac plan specs/cyberpunk.py --unlocked --card 24GB
"""

from lorac import AdamW, Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="cyberpunk",
    base=Base("../models/v1-5-pruned-emaonly.safetensors", family="sd1"),  # relative to this file's folder
    data=Images(
        "../data/cyberpunk",
        resolution=512,  # aspect ratios are kept: buckets of about 512 * 512 pixels
        trigger="cyberpunk style",
        prepend_trigger=True,  # put before each caption that does not have it
        flip=True,
        caption_dropout=0.05,  # some samples without caption, for guidance
        expected_images=120,  # for --unlocked, while the folder is not here
    ),
    adapter=LoRA(rank=8, alpha=16, dropout=0.1, targets="qkv"),
    train=Train(
        effective_batch=4,
        epochs=10,
        learning_rate=2e-4,
        scheduler="cosine",
        warmup_steps=30,
        optimizer=AdamW(weight_decay=0.01),
        max_grad_norm=1.0,
        snr_gamma=5.0,  # min-SNR weighting
        seed=42,
    ),
    fit=Fit(
        card="12GB",  # what it must fit; --card overrules it
        micro_batch=Auto(1, 4),  # micro_batch * accumulation * processes is effective_batch
        accumulation=Auto(),
        gradient_checkpointing=Auto(),  # only if it does not fit without
    ),
    samples=Samples(
        prompts=(
            "cyberpunk style, a street market at night in the rain",
            "cyberpunk style, portrait of an old engineer",
            "cyberpunk style, a cat on a rooftop above the city",
        ),
        negative_prompt="blurry, low quality",
        seed=1234,
    ),
    outputs=Outputs(
        save_steps=100,  # checkpoints, each usable as a LoRA, with samples
        keep_checkpoints=3,
        preferred_weight=0.8,
        description="Neon, rain and chrome.",
        tags=("style", "cyberpunk"),
    ),
)
