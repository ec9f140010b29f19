"""Who loads the LoRAs of FLUX.1 and Stable Diffusion 3, whose modules are called by diffusers' own paths.

ComfyUI 0.3.64 was given every name (facts/outputs.md 1.3); Forge's and sd-scripts' names were read, Forge's in
packages_3rdparty/comfyui_lora_collection/lora.py (00f1cd36), where Stable Diffusion 3's are commented out.
"""

from __future__ import annotations

from runtime.export.manifest import Loads

FLUX = frozenset({"flux-1-dev/lora", "flux-1-schnell/lora"})
SD3 = frozenset({f"stable-diffusion-3-{size}/lora" for size in ("medium", "5-medium", "5-large")})

READ, RUN, TESTED = (
    f"takes every key ({how})"
    for how in ("its names were read", "its names were run, 0.3.64", "0.42.1 is run by lorac's tests")
)
CONVERT_FLUX = "it knows BFL's fused names; its networks/convert_flux_lora.py makes them of {plain}"
PICTURE_STREAM = "it takes the attention of the picture's stream and leaves out the rest, in silence"

Row = tuple[str, Loads, str, str]
"""Consumer, what it does, why, which of the two files: "named" after the LoRA, or the "plain" one of diffusers."""


def rows(architecture: str) -> tuple[Row, ...]:
    """What each consumer does with the LoRA of one of these architectures; none of another."""
    if architecture in FLUX:
        return _flux()
    return _sd3(architecture) if architecture in SD3 else ()


def _flux() -> tuple[Row, ...]:
    return (
        ("Stable Diffusion WebUI (AUTOMATIC1111)", "refuses", "it has no FLUX.1", "named"),
        ("Forge", "loads", READ, "named"),
        ("ComfyUI", "loads", RUN, "named"),
        ("diffusers", "loads", TESTED, "plain"),
        ("sd-scripts (kohya)", "refuses", CONVERT_FLUX, "named"),
    )


def _sd3(architecture: str) -> tuple[Row, ...]:
    is_first = architecture == "stable-diffusion-3-medium/lora"
    webui: tuple[Loads, str] = ("partial", PICTURE_STREAM) if is_first else ("refuses", "it has no SD 3.5")
    return (
        ("Stable Diffusion WebUI (AUTOMATIC1111)", *webui, "plain"),
        ("Forge", "refuses", "it knows Stability AI's fused names alone", "named"),
        ("ComfyUI", "loads", RUN, "named"),
        ("diffusers", "loads", TESTED, "plain"),
        ("sd-scripts (kohya)", "refuses", "it knows Stability AI's fused names alone", "named"),
    )
