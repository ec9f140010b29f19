"""A LoRA for Stable Diffusion XL at 1024 pixels: bring your own base and 20 to 200 pictures.

Put the base at models/sd_xl_base_1.0.safetensors and the pictures, at least 1024 px on their short side, with a text
file beside each, in data/watercolour/. Without them the plan can still be made, and looked at for other cards:

    lorac plan specs/sdxl.py --unlocked
    lorac fit specs/sdxl.py --unlocked --cards 8GB,12GB,16GB,24GB
"""

from lorac import Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="watercolour",
    base=Base("../models/sd_xl_base_1.0.safetensors", family="sdxl"),  # relative to this file's folder
    data=Images(
        "../data/watercolour",
        resolution=1024,
        trigger="watercolour style",
        prepend_trigger=True,
        flip=True,
        caption_dropout=0.05,
        expected_images=60,  # for --unlocked, while the folder is not here
    ),
    adapter=LoRA(
        rank=32,  # half of it as alpha, and the UNet alone: what sd-scripts' documentation recommends for SDXL
        alpha=16,
        targets="qkvo+ff",
    ),
    train=Train(
        effective_batch=4,
        steps=1500,
        learning_rate=1e-4,
        scheduler="constant",
        warmup_steps=50,
        snr_gamma=5.0,  # min-SNR weighting
        noise_offset=0.0357,  # what SDXL's base was tuned with: dark and bright pictures
        seed=42,
    ),
    fit=Fit(
        card="12GB",
        micro_batch=Auto(1, 4),
        gradient_checkpointing=Auto(),
        optimizer_bits=Auto(choices=(32, 8)),  # 8-bit moments only where 32 do not fit
    ),
    samples=Samples(
        prompts=(
            "watercolour style, a lighthouse on a cliff",
            "watercolour style, portrait of an old fisherman",
            "watercolour style, a red fox in the snow",
        ),
        negative_prompt="photograph",
        seed=1234,
    ),
    outputs=Outputs(
        save_steps=250,
        keep_checkpoints=3,
        preferred_weight=0.9,
        description="Loose watercolour on rough paper.",
        tags=("style", "watercolour"),
    ),
)
