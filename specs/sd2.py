"""A LoRA for Stable Diffusion 2.1 at 768 pixels, which predicts v: bring your own base and 50 to 200 pictures.

Put the base at models/v2-1_768-ema-pruned.safetensors and the pictures, at least 768 px on their short side, with a
text file beside each, in data/engraving/. Without them the plan can still be made and looked at:

    lorac plan specs/sd2.py --unlocked
    lorac plan specs/sd2.py --unlocked --card 24GB
"""

from lorac import Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="engraving",
    base=Base(
        "../models/v2-1_768-ema-pruned.safetensors",  # relative to this file's folder
        family="sd2",
        prediction_type="v_prediction",  # a single file does not say: "epsilon" for 2.x "base", at 512 pixels
    ),
    data=Images(
        "../data/engraving",
        resolution=768,
        trigger="copperplate engraving",
        prepend_trigger=True,
        caption_dropout=0.05,
        expected_images=120,  # for --unlocked, while the folder is not here
    ),
    adapter=LoRA(rank=16, alpha=16, targets="qkvo+ff"),
    train=Train(
        effective_batch=4,
        epochs=10,
        learning_rate=1e-4,
        scheduler="cosine",
        warmup_steps=30,
        snr_gamma=5.0,  # min-SNR weighting, in its form for v
        seed=42,
    ),
    fit=Fit(card="12GB", micro_batch=Auto(1, 4), gradient_checkpointing=Auto()),
    samples=Samples(
        prompts=(
            "copperplate engraving, a harbour with tall ships",
            "copperplate engraving, portrait of a botanist",
            "copperplate engraving, a rhinoceros",
        ),
        negative_prompt="photograph, colour",
        seed=1234,
    ),
    outputs=Outputs(
        save_steps=100,
        keep_checkpoints=3,
        preferred_weight=0.8,
        description="Fine lines and hatching, black on cream.",
        tags=("style", "engraving"),
    ),
)
