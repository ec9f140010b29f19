"""The text encoder is trained, and is to wait in the computer's memory."""

from lorac import Experiment, Fit, Images, LoRA

experiment = Experiment(
    name="cats",
    base="models/sd15.safetensors",
    data=Images("data/cats"),
    adapter=LoRA(text_encoder=True),
    fit=Fit(offload="text_encoder"),
)
