"""How these tests look at a refusal: the whole line that a user would see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime.errors import LoracError


def refusal(kind: type[LoracError], call: Callable[..., Any], *arguments: Any, **named: Any) -> list[str]:
    """The lines of the error that the call must raise, of exactly this kind."""
    with pytest.raises(LoracError) as caught:
        call(*arguments, **named)
    assert type(caught.value) is kind
    return caught.value.lines()
