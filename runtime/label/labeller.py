"""What writes captions: a model by its name or folder, of whatever kind it is."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from runtime.errors import InputError, LoracError, MachineError, Problem
from runtime.safeio import paths

CLIP_CONFIG = "open_clip_config.json"
LOCAL = "local-dir:"
"""open_clip's own mark of a folder, which may stand in front here too."""


SAID = 200
"""Characters of a library's own words that an error shows."""

Describe = Callable[[Sequence[Image]], list[list[str]]]
"""Takes RGB pictures and gives each the words for it, to be joined by commas."""


def load(model: str, lists: dict[str, tuple[str, ...]], most: int) -> Describe:
    """The model called so. `lists` are a CLIP's words by kind; `most` is how many words or tags a caption may have.

    Raises InputError for a folder with no model in it, MachineError for one that is not here and out of reach.
    """
    folder = Path(model.removeprefix(LOCAL))
    if not folder.is_dir():
        if model.startswith((LOCAL, ".", "/", "~")):
            hint = "give the folder of an open_clip or a Transformers model"
            raise InputError(Problem(paths.display(folder), "there is no such folder", hint))
        return _loaded(model, lambda: _by_name(model, lists, most))
    if not any(folder.glob("*.safetensors")):
        what = "holds no .safetensors file; nothing else is read, as other formats can run code"
        raise InputError(Problem(paths.display(folder), what, "convert its weights"))
    if (folder / CLIP_CONFIG).is_file():
        return _loaded(model, lambda: _clip(f"{LOCAL}{folder}", lists, most))
    if not (folder / "config.json").is_file():
        what = f"holds neither {CLIP_CONFIG} nor a Transformers config.json"
        raise InputError(Problem(paths.display(folder), what, "give the folder of a model"))
    return _loaded(model, lambda: _of_transformers(str(folder), most))


def _by_name(model: str, lists: dict[str, tuple[str, ...]], most: int) -> Describe:
    import open_clip

    if model.startswith("hf-hub:") or model.partition("/")[0] in open_clip.list_models():
        return _clip(model, lists, most)
    return _of_transformers(model, most)


def _clip(model: str, lists: dict[str, tuple[str, ...]], most: int) -> Describe:
    from runtime.label import clip

    return clip.ranker(clip.load(model), lists, most)


def _of_transformers(model: str, most: int) -> Describe:
    """A tagger where the model classifies pictures, else a captioner."""
    import transformers
    from transformers import AutoConfig

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config: Any = AutoConfig.from_pretrained(model)
    if any(name.endswith("ForImageClassification") for name in config.architectures or ()):
        from runtime.label import tagger

        return tagger.tagger(model, most)
    from runtime.label import captioner

    return captioner.captioner(model)


def _loaded(model: str, work: Callable[[], Describe]) -> Describe:
    """What libraries raise for a model that is not there or no model is told in one line; what they log is not."""
    logging.disable(logging.ERROR)
    try:
        return work()
    except LoracError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        is_here = Path(model.removeprefix(LOCAL)).is_dir()
        what = f"cannot be loaded: {textwrap.shorten(said, SAID, placeholder='…')}"
        if is_here:
            raise InputError(Problem(model, what, "give a whole model's folder")) from error
        hint = "where there is no network, give a model's folder: --model DIR"
        raise MachineError(Problem(model, what, hint)) from error
    finally:
        logging.disable(logging.NOTSET)
