"""The demo: a style LoRA on the small Stable Diffusion in this folder, on a CPU, in about two minutes.

The base was trained on Noto emoji; Twemoji's flat style is what the LoRA learns, from 94 faces and hearts.
The prompts below are concepts that it never saw: `lorac run` ends with a sheet that shows them without the LoRA,
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
        caption_dropout=0.1,  # guidance compares with an empty prompt: that picture takes the style too
    ),
    adapter=LoRA(rank=16, targets="qkvo+ff+conv"),  # alpha is left open: it follows the rank
    train=Train(
        effective_batch=8,  # what you promise yourself; how it is split is the planner's business
        steps=350,
        learning_rate=2e-3,  # the base is small: a large model wants 1e-4
        scheduler="cosine",
        warmup_steps=35,
        snr_gamma=1.0,  # shape and colour are settled at high noise: weigh it up
        seed=1,
    ),
    fit=Fit(card="auto", threads=2),  # whatever this machine has; two threads where that is a CPU
    samples=Samples(
        prompts=(
            "worried face, face, twemoji style",
            "angry face, face, twemoji style",
            "kissing face, face, twemoji style",
            "face with medical mask, face, twemoji style",
            "relieved face, face, twemoji style",
            "pink heart, heart, twemoji style",
        ),
        references=(
            "emoji/twemoji/heldout/worried-face.png",
            "emoji/twemoji/heldout/angry-face.png",
            "emoji/twemoji/heldout/kissing-face.png",
            "emoji/twemoji/heldout/face-with-medical-mask.png",
            "emoji/twemoji/heldout/relieved-face.png",
            "emoji/twemoji/heldout/pink-heart.png",
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
