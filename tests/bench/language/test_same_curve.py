from __future__ import annotations

from pathlib import Path

import pytest

from tests import texts
from tests.bench.language.same_curve import same_curve


def test_a_run_s_losses_and_gradients_are_peft_s(
    tiny_lm: Path, tiny_text: Path, cache: Path, tmp_path: Path
) -> None:
    of = texts.planned(
        tiny_lm,
        tiny_text,
        tmp_path / "planned",
        packing=False,
        effective_batch=2,
        micro_batch=1,
        accumulation=2,
    )
    pairs = same_curve(of, texts.where(of, tmp_path, cache))

    assert len(pairs) == 6
    assert pairs[-1].lorac < pairs[0].lorac
    for one in pairs:
        assert one.lorac == pytest.approx(one.peft, rel=1e-5)
        assert one.lorac_norm == pytest.approx(one.peft_norm, rel=1e-4)
