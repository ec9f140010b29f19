"""A style LoRA for Z-Image at 1024 pixels: bring the base, and 20 to 100 pictures with a caption each.

Put the diffusers folder of Z-Image at models/Z-Image/. Turbo is no base to train: it is distilled to draw in 8 steps,
which training undoes; a LoRA made on Z-Image loads on Turbo. Without base and pictures the plan can be looked at:

    lorac plan specs/z_image.py --unlocked
    lorac fit specs/z_image.py --unlocked --cards 12GB,16GB,24GB
"""

from lorac import Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="linocut",
    base=Base("../models/Z-Image", family="z_image"),  # relative to this file's folder
    data=Images(
        "../data/linocut",
        resolution=1024,
        trigger="linocut print",
        prepend_trigger=True,
        caption_dropout=0.05,
        expected_images=40,  # for --unlocked, while the folder is not here
    ),
    adapter=LoRA(rank=16, alpha=16, targets="qkvo+ff"),
    train=Train(
        effective_batch=2,
        steps=2000,
        learning_rate=1e-4,
        scheduler="constant",
        warmup_steps=20,
        seed=42,
    ),
    fit=Fit(
        card="24GB",
        gradient_checkpointing=Auto(),  # only the blocks that do not fit without
        micro_batch=Auto(1, 2),
        quantization=Auto(
            choices=("none", "int8", "nf4")
        ),  # in fewer bits only where it does not fit otherwise
        optimizer_bits=Auto(choices=(32, 8)),
    ),
    samples=Samples(
        prompts=(
            "linocut print, a heron in the reeds",
            "linocut print, portrait of a fisherman",
            "linocut print, a narrow street in the rain",
        ),
        seed=1234,
    ),
    outputs=Outputs(
        save_steps=250,
        keep_checkpoints=3,
        preferred_weight=1.0,
        description="Bold black lines, carved.",
        tags=("style", "linocut"),
    ),
)
