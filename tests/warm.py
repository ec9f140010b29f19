"""What a run on a tiny base imports, imported: the fork server of `tests.life` loads this and nothing else."""

import diffusers.models.autoencoders.autoencoder_kl
import diffusers.models.unets.unet_2d_condition
import torch.utils.tensorboard
import transformers.models.clip.modeling_clip
import transformers.models.llama.modeling_llama

import runtime.families.causal_lm
import runtime.families.sd1
import runtime.media.pictures
import runtime.media.text
import runtime.run  # noqa: F401
