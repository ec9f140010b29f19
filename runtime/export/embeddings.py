"""The files of words that have vectors of their own, `embeddings/WORD.safetensors`: one each, beside the LoRA.

- WebUI and Forge call an embedding by its file's name, looked for among a prompt's tokens, ComfyUI by `embedding:NAME`;
  so "<crest>" is crest to them, which can be a file's name everywhere.
- They tell the base by the one tensor's width, SDXL by the two names `clip_l` and `clip_g`. Read in A1111's
  modules/textual_inversion/textual_inversion.py, Forge's backend/text_processing/textual_inversion.py and ComfyUI's
  comfy/sd1_clip.py (`load_embed`); tests/consumers/ holds their rules.
- They are not put into the LoRA's own file as `bundle_emb.*`: of these A1111 alone reads that there,
  additional-networks refuses such a file, and diffusers takes it for none of kohya's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

from runtime import plan
from runtime.adapters.words import UNKNOWN_END
from runtime.dtypes import DTYPES
from runtime.export.manifest import Verdict
from runtime.export.weights import Weights
from runtime.families.protocol import Family

FOLDER = "embeddings"
"""Theirs and ours."""


def file_name(word: plan.Word) -> str:
    """Where a word's file lies in the run's folder."""
    return f"{FOLDER}/{plan.called(word)}.safetensors"


def file_names(adapter: plan.Adapter) -> list[str]:
    """The files of all words."""
    return [file_name(word) for word in adapter.words]


def tensors(family: Family, weights: Weights, word: plan.Word, of: plan.Plan) -> dict[str, Tensor]:
    """A word's vectors (vectors, width) of each text encoder, by the names that programs read."""
    paths = of.program.adapter.word_embeddings
    return {
        family.WORD_FILES[encoder]: weights[encoder][path][plan.token_of(word)]
        .detach()
        .cpu()
        .to(DTYPES[of.outputs.dtype])
        for encoder, path in paths.items()
    }


def in_programs(text: str, adapter: plan.Adapter) -> str:
    """A prompt as WebUI is to be given it: with its own names for the words."""
    for word in adapter.words:
        text = re.sub(re.escape(word.word), plan.called(word), text, flags=re.IGNORECASE)
    return text


def verdicts(family: Family, of: plan.Plan) -> Iterator[Verdict]:
    """Who reads the words' files, where they want them, and how the words are called."""
    for word in of.program.adapter.words:
        name, file = plan.called(word), file_name(word)
        rows = (
            ("Stable Diffusion WebUI (AUTOMATIC1111)", FOLDER, f"in the prompt: {name}", "1.10"),
            ("Forge", FOLDER, f"in the prompt: {name}", "42ef31f1"),
            ("ComfyUI", f"models/{FOLDER}", f"in the prompt: embedding:{name}", "0.3"),
        )
        for consumer, folder, call, version in rows:
            yield Verdict(
                consumer=consumer,
                loads="loads",
                reason=f"takes the vectors (its loader was read, not run, {version})",
                file=file,
                folder=folder,
                call=call,
            )
        yield Verdict(
            consumer="diffusers",
            loads="loads",
            reason="takes the vectors (0.42.1 is run by lorac's tests)",
            file=file,
            folder="",
            call="; ".join(_diffusers_calls(family, word, of.program)),
        )


def _diffusers_calls(family: Family, word: plan.Word, program: plan.Program) -> Iterator[str]:
    """One for each text encoder. A plain word is in its vocabulary already, and refused: hence the brackets.

    An encoder whose summary of a text counts is told what a text's end is, where its config does not know it."""
    token = plan.token_of(word)
    if len(family.WORD_FILES) == 1:
        yield f'pipe.load_textual_inversion("{file_name(word)}", token="{token}")'
        return
    for encoder, key in family.WORD_FILES.items():
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        told = f"text_encoder=pipe.{encoder}, tokenizer=pipe.{tokenizer}"
        yield f'pipe.load_textual_inversion({{"{token}": load_file("{file_name(word)}")["{key}"]}}, {told})'
        if program.base.architecture[encoder].get("eos_token_id") == UNKNOWN_END:
            inner = program.adapter.word_embeddings[encoder].removesuffix("embeddings.token_embedding")
            yield f"pipe.{encoder}.{inner}eos_token_id = pipe.{tokenizer}.eos_token_id"
