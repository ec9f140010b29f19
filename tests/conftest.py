"""What many tests stand on, made once a session. Nothing is read from or written to the user's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that stands for ~/.cache/lorac; this machine's own calibration is not seen either."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAC_CACHE", str(folder))
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        patch.delenv("COLUMNS", raising=False)  # pytest-xdist's own, not a terminal's
        yield folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SD 1.x of a few MB as a diffusers folder. Not to be written to."""
    from runtime.families import sd1

    return sd1.tiny(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of 64 × 64 noise with captions in metadata.csv. Not to be written to."""
    folder = tmp_path_factory.mktemp("tiny") / "data"
    folder.mkdir()
    rows = ["image,prompt"]
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        rows.append(f'{number}.png,"noise {number}, tiny style"')
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of three frames of 64 × 64 noise: three folders and `3.gif`. Not to be written to."""
    folder = tmp_path_factory.mktemp("tiny") / "clips"
    folder.mkdir()
    for number in range(4):
        luck = np.random.default_rng(number)
        frames = [Image.fromarray(luck.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
        if number == 3:
            frames[0].save(folder / "3.gif", save_all=True, append_images=frames[1:])
            continue
        (folder / str(number)).mkdir()
        for place, frame in enumerate(frames):
            frame.save(folder / str(number) / f"{place}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of some kB with a tokenizer of bytes, as a Transformers folder. Not to be written to."""
    from runtime.families import causal_lm

    return causal_lm.tiny(tmp_path_factory.mktemp("tiny") / "lm")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen instructions with answers, all different, as .jsonl. Not to be written to."""
    from tests import texts

    return texts.write(tmp_path_factory.mktemp("tiny") / "text" / "questions.jsonl", texts.questions())


@pytest.fixture(scope="session")
def embedded_base() -> Path:
    """The small Stable Diffusion that the repository holds."""
    return ROOT / "specs" / "emoji" / "base"
