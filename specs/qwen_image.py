"""A character LoRA for Qwen-Image at 512 pixels, on a 24 GB or a 12 GB card.

Put the diffusers folder of Qwen-Image at models/Qwen-Image/, or name ComfyUI's files with `base.parts`, and 20 to 60
pictures, with a caption each, in data/mascot/. Twenty billion weights fit these cards in 4 bits, some of their blocks
waiting in the computer's memory.
Without base and pictures the plan can be looked at:

    lorac plan specs/qwen_image.py --unlocked
    lorac fit specs/qwen_image.py --unlocked --cards 12GB,16GB,24GB
"""

from lorac import Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="mascot",
    base=Base("../models/Qwen-Image", family="qwen_image"),  # relative to this file's folder
    data=Images(
        "../data/mascot",
        resolution=512,  # at 1024 it takes a 16 GB card
        trigger="otto the otter",
        expected_images=40,  # for --unlocked, while the folder is not here
    ),
    adapter=LoRA(rank=16, alpha=16, targets="qkvo+ff"),
    train=Train(
        effective_batch=1,
        steps=2000,
        learning_rate=5e-5,  # half of what smaller models take: musubi-tuner's and Unsloth's
        scheduler="constant",
        warmup_steps=20,
        seed=42,
    ),
    fit=Fit(
        card="24GB",
        gradient_checkpointing=Auto(),  # only the blocks that do not fit without
        quantization="nf4",
        optimizer_bits=Auto(choices=(32, 8)),
        offload=Auto(),  # encoders always, blocks where it does not fit otherwise
    ),
    samples=Samples(
        prompts=(
            "otto the otter reads a newspaper in a café",
            "otto the otter on a surfboard, a huge wave behind him",
        ),
        negative_prompt=" ",
        seed=1234,
    ),
    outputs=Outputs(
        save_steps=250,
        keep_checkpoints=3,
        preferred_weight=1.0,
        description="An otter with a red scarf.",
        tags=("character",),
    ),
)
