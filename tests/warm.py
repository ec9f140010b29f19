"""What a run on a tiny base imports, imported: the fork server of `tests.life` loads this and nothing else."""

from importlib import import_module

MODULES = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "runtime.families.causal_lm",
    "runtime.families.sd1",
    "runtime.media.pictures",
    "runtime.media.text",
    "runtime.run",
    "torch.utils.tensorboard",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
)

for module in MODULES:
    import_module(module)
