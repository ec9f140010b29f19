"""A motion LoRA for Stable Video Diffusion: bring the base, and 10 to 100 short clips of one way of moving.

Put the diffusers folder of stable-video-diffusion-img2vid at models/stable-video-diffusion-img2vid/, or write where its
single file is (svd.safetensors), and the clips in data/waves/: a folder of frames for each (waves/sunset/00.png, 01.png
…), or an animated GIF, PNG or WebP. The first 14 frames are taken. Without them the plan can be looked at:

    lorac plan specs/svd.py --unlocked
    lorac fit specs/svd.py --unlocked --cards 12GB,16GB,24GB
"""

from lorac import Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="waves",
    base=Base("../models/stable-video-diffusion-img2vid", family="svd"),  # relative to this file's folder
    data=Images(
        "../data/waves",
        frames=14,  # what img2vid was made for; 25 for img2vid-xt (svd_xt), whose weights do not say
        fps=7,
        motion=127,  # 1 to 255: how much moves
        resolution=384,  # of about as many pixels as 384 * 384, in each clip's own shape: 512 takes a 16 GB card
        flip=True,
        expected_images=30,  # clips, for --unlocked, while the folder is not here
    ),
    adapter=LoRA(rank=16, alpha=16, targets="qkvo"),
    train=Train(
        effective_batch=1,
        steps=2000,
        learning_rate=1e-4,
        scheduler="constant",
        warmup_steps=50,
        seed=42,
    ),
    fit=Fit(
        card="24GB",
        gradient_checkpointing=Auto(),  # only the blocks that do not fit without
        optimizer_bits=Auto(choices=(32, 8)),
    ),
    samples=Samples(
        prompts=("sunset", "harbour"), seed=1234
    ),  # clips of the data: a sample begins as they begin
    outputs=Outputs(
        save_steps=250,
        keep_checkpoints=3,
        preferred_weight=1.0,
        description="Slow, heavy swell.",
        tags=("motion", "water"),
    ),
)
