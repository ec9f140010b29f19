"""The demo: a style LoRA on the small Stable Diffusion in this folder, on a CPU, in about two minutes.

The base was trained on Noto emoji; Twemoji's flat style is what the LoRA learns, from 102 pictures. The
prompts below are concepts that it never saw: `lorac run` ends with a sheet that shows them without the LoRA,
with it at 0.8, and as Twemoji really draws them.

    lorac plan specs/quickstart.py
    lorac run specs/quickstart.py
"""

from lorac import Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="twemoji",
    base="emoji/base",  # paths are relative to this file's folder
    data=Images(
        "emoji/twemoji/train",  # pictures and metadata.csv (image,prompt)
        resolution=64,
        buckets=False,  # all of them are square
        trigger="twemoji style",  # the captions already end with it
        flip=True,
        caption_dropout=0.2,  # guidance compares with an empty prompt: that picture takes the style too
    ),
    adapter=LoRA(rank=16, targets="qkvo+ff+conv"),  # alpha is left open: it follows the rank
    train=Train(
        effective_batch=8,  # what you promise yourself; how it is split is the planner's business
        steps=300,
        learning_rate=1e-4,
        scheduler="cosine",
        warmup_steps=20,
        seed=1,
    ),
    fit=Fit(card="auto", threads=2),  # whatever this machine has; two threads where that is a CPU
    samples=Samples(
        prompts=(
            "cat face, animal, twemoji style",
            "strawberry, fruit, twemoji style",
            "worried face, face, twemoji style",
            "cactus, plant, twemoji style",
            "sailboat, vehicle, twemoji style",
            "beer mug, drink, twemoji style",
        ),
        references=(
            "emoji/twemoji/heldout/cat-face.png",
            "emoji/twemoji/heldout/strawberry.png",
            "emoji/twemoji/heldout/worried-face.png",
            "emoji/twemoji/heldout/cactus.png",
            "emoji/twemoji/heldout/sailboat.png",
            "emoji/twemoji/heldout/beer-mug.png",
        ),
        steps=20,
        guidance=4.0,
        seed=7,
    ),
    outputs=Outputs(
        description="Flat emoji in the manner of Twemoji, for lorac's small emoji base.",
        license="CC-BY 4.0",  # Twemoji's graphics; see specs/emoji/ATTRIBUTION.md
        tags=("style", "emoji"),
    ),
)
