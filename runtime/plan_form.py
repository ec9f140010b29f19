"""Any part of a plan as plain JSON data, and back, strictly. A part of `runtime.plan`, where others find it."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cattrs
from cattrs.preconf.json import make_converter
from cattrs.v import format_exception

from runtime.errors import PlanError, Problem

AGAIN = "make the plan again: lorac plan SPEC"


def _strict(value: Any, want: Any) -> Any:
    if want is float and type(value) is int:
        return float(value)
    if type(value) is not want:
        raise ValueError(f"expected {want.__name__}, got {type(value).__name__} {value!r}")
    if want is float and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    return value


def _converter() -> cattrs.Converter:
    converter = make_converter(forbid_extra_keys=True)
    for scalar in (int, float, str, bool):
        converter.register_structure_hook(scalar, _strict)
    converter.register_structure_hook(Any, lambda value, _: value)
    return converter


CONVERTER = _converter()
_T = TypeVar("_T")


def unstructure(value: Any) -> Any:
    """Plain JSON data of any part of a plan."""
    return CONVERTER.unstructure(value)


def structure(data: Any, cls: type[_T], where: str) -> _T:
    """A part of a plan from plain JSON data. Raises PlanError with every field that is wrong."""
    try:
        return CONVERTER.structure(data, cls)
    except Exception as error:  # every failure of cattrs is a wrong plan, told field by field
        lines = cattrs.transform_error(error, path=cls.__name__.lower(), format_exception=_said)
        raise PlanError([Problem(where, _placed(line), AGAIN) for line in lines]) from None


def _placed(line: str) -> str:
    """cattrs' `what @ place`, the place first."""
    what, _, place = line.rpartition(" @ ")
    if what == "required field missing":
        return f"{place} is missing"
    return f"{place}: {what.replace('extra fields found', 'there is no such field')}"


def _said(error: BaseException, wanted: type | None) -> str:
    """What one wrong field is: our own words where `_strict` spoke, else cattrs'."""
    if isinstance(error, ValueError) and str(error).startswith("expected "):
        return str(error)
    return format_exception(error, wanted)
