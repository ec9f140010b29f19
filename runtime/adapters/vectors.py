"""Files of the methods that learn vectors of a layer: PEFT alone has them, as they are."""

from __future__ import annotations

from typing import Any

from runtime import plan
from runtime.adapters.adapted import Parts


def files(adapter: plan.Adapter) -> tuple[str, ...]:
    return ("peft",)


def strength(parts: Parts, module: str, adapter: plan.Adapter) -> float:
    return 1.0


def read_strength(parts: Parts, alpha: float) -> float:
    return 1.0


def network(adapter: plan.Adapter) -> tuple[str, int, dict[str, Any]]:
    raise NotImplementedError(f"kohya's files hold no {adapter.method}")


def for_peft(parts: Parts, module: str, adapter: plan.Adapter) -> Parts:
    return parts
