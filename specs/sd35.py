"""A style LoRA for Stable Diffusion 3.5 medium on a 12 GB card: bring your own base and 30 to 200 pictures.

Put the publisher's repository, in diffusers' layout, at models/stable-diffusion-3.5-medium/ and the pictures, each with
a text file that describes it in sentences, in data/style/. Without them the plan can still be made and looked at:

    lorac plan specs/sd35.py --unlocked
    lorac plan specs/sd35.py --unlocked --card 24GB
"""

from lorac import AdamW, Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="sd35-style",
    base=Base("../models/stable-diffusion-3.5-medium", family="sd3", published="3.5-medium"),
    data=Images(
        "../data/style",
        resolution=768,  # 1024, what it was trained at last, takes a 16 GB card
        trigger="linocut style",
        prepend_trigger=True,
        flip=True,
        caption_dropout=0.1,  # some samples without caption, for guidance
        expected_images=60,  # for --unlocked, while the folder is not here
    ),
    adapter=LoRA(rank=16, alpha=16),  # attention of both streams
    train=Train(
        effective_batch=2,
        steps=2000,
        learning_rate=1e-4,
        scheduler="constant",
        warmup_steps=50,
        optimizer=AdamW(weight_decay=0.01),
        max_grad_norm=1.0,
        seed=42,
    ),
    fit=Fit(card="12GB", optimizer_bits=8, gradient_checkpointing=Auto()),
    samples=Samples(
        prompts=("linocut style, a lighthouse in a storm", "linocut style, portrait of a sailor"),
        negative_prompt="blurry, low quality",
        seed=1234,
        every=500,
    ),
    outputs=Outputs(save_steps=250, keep_checkpoints=4, description="Cut in linoleum.", tags=("style",)),
)
