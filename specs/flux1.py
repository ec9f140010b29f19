"""A LoRA for FLUX.1 dev on a 12 GB card: a person, an object or a style from 15 to 50 pictures.

Put the publisher's repository, in diffusers' layout, at models/FLUX.1-dev/ and the pictures, each with a text file that
describes it in sentences, in data/subject/. Without them the plan can still be made and looked at:

    lorac plan specs/flux1.py --unlocked
    lorac fit specs/flux1.py --unlocked --cards 8GB,12GB,16GB,24GB
"""

from lorac import AdamW, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="flux-subject",
    base=Base("../models/FLUX.1-dev", family="flux1", published="dev"),
    data=Images(
        "../data/subject",
        resolution=512,  # learns faster than 1024, and draws at 1024 all the same
        trigger="sks teapot",
        prepend_trigger=True,
        caption_dropout=0.05,
        expected_images=25,  # for --unlocked, while the folder is not here
    ),
    adapter=LoRA(rank=16, alpha=16),  # attention of both streams; "qkvo+ff" and "all-linear" adapt more
    train=Train(
        effective_batch=1,
        steps=2000,
        learning_rate=1e-4,
        scheduler="constant",
        warmup_steps=20,
        optimizer=AdamW(weight_decay=0.01),
        max_grad_norm=1.0,
        seed=42,
    ),
    fit=Fit(
        card="12GB",
        quantization="nf4",  # 6.6 GiB of weights instead of 22.2; "int8" or "none" where there is room
        optimizer_bits=8,
    ),
    samples=Samples(
        prompts=("sks teapot on a kitchen table, morning light", "a watercolour of sks teapot"),
        seed=1234,
        every=500,
    ),
    outputs=Outputs(save_steps=250, keep_checkpoints=4, description="A teapot.", tags=("subject",)),
)
