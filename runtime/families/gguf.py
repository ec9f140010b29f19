"""Language models from GGUF files, by transformers' reader: dequantised as they are read.

The extra `lorac[gguf]` brings the package that reads the container.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from runtime.errors import InputError, MachineError, Problem

NOT_ARCHITECTURE = ("_model_name_or_path", "name_or_path", "dtype")


def config(path: Path) -> dict[str, Any]:
    """The model's config from the file's metadata alone. Raises InputError, MachineError without the extra."""
    return {key: value for key, value in _read(path)["config"].items() if key not in NOT_ARCHITECTURE}


def load(path: Path, config: Any, dtype: torch.dtype) -> Any:
    """The model with its weights in a dtype. Raises InputError for a file that is not whole.

    Not by `from_pretrained`: a model loaded so calls itself quantised, and can be neither saved nor cast.
    """
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with init_empty_weights(include_buffers=False):  # rotary buffers are in no file and are made here
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with _quiet(), _parsed_once():
        read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model, torch_dtype=dtype)
    lost = model.load_state_dict(read["tensors"], strict=False, assign=True)
    model.tie_weights()
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    missing = [name for name in lost.missing_keys if name not in tied]
    problems = [Problem(str(path), f"has no tensor {name}", "download it again") for name in missing]
    problems += [Problem(str(path), f"has an unknown tensor {name}", "") for name in lost.unexpected_keys]
    if problems:
        raise InputError(problems)
    return model


def tokenizer(path: Path) -> Any:
    """The tokenizer that the file holds. It is what a base is asked for last: its parsed file is let go."""
    _needs_package()
    with _quiet(), _parsed_once():
        made = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    if _read(path)["tokenizer"].get("pre_tokenizer_type") == "smollm":
        # transformers does not know this one: llama.cpp splits off each digit, then bytes (llama-vocab.cpp,
        # LLAMA_VOCAB_PRE_TYPE_SMOLLM). Without it, white space before a digit gets other tokens.
        from tokenizers import pre_tokenizers

        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
    _parsed.cache_clear()
    return made


@lru_cache(maxsize=1)
def _read(path: Path) -> dict[str, Any]:
    _needs_package()
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        with _quiet(), _parsed_once():
            found: dict[str, Any] = load_gguf_checkpoint(str(path), return_tensors=False)
    except Exception as error:  # whatever a damaged file makes the reader raise
        what = f"cannot be read as GGUF: {' '.join(str(error).split())[:200]}"
        raise InputError(
            Problem(str(path), what, "download it again, or take a Transformers folder")
        ) from None
    return found


def _needs_package() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError:
        hint = "pip install 'lorac[gguf]'"
        raise MachineError(
            Problem("gguf", "this base is a GGUF file, which needs the package gguf", hint)
        ) from None


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """One parsed file for all that transformers asks of it: it would read a vocabulary's every word each time."""
    import gguf

    package: Any = gguf  # what is set here is one of its classes, to mypy
    own = package.GGUFReader
    package.GGUFReader = lambda path: _parsed(own, str(path), Path(path).stat().st_mtime_ns)
    try:
        yield
    finally:
        package.GGUFReader = own


@lru_cache(maxsize=1)
def _parsed(reader: Callable[[str], Any], path: str, changed: int) -> Any:
    """The file at `path` as it was at `changed`."""
    return reader(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bar of transformers' reader, which nothing turns off."""
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        yield
