"""How an operator runs on fake tensors: what it gives is worked out once for arguments of the same shapes.

A step calls the same operators over and over on tensors of the same few shapes. `FakeTensorMode` keeps what it found,
too, but takes 60 µs to look it up, and keeps no lists and no custom operator's results; here it takes 6 µs. What a
value would be asked for is answered by `answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from lorac.estimate.answers import answer, asks, follow

PLAIN = frozenset(
    {bool, int, float, str, type(None), torch.dtype, torch.layout, torch.device, torch.memory_format}
)
"""Arguments that say all by their value."""
NESTED = frozenset({list, tuple, torch.Size})
META = torch.device("meta")
LIFT = torch.ops.aten.lift_fresh.default

Name = tuple[Any, ...] | None
"""An operator with all that its results depend on; None where that is not known."""

layout_of: Callable[[Tensor], torch.layout] = Tensor.layout.__get__  # type: ignore[attr-defined]


class Unknown(Exception):
    """This call's results are not told by its arguments' shapes alone, or not in a way that is kept here."""


@attrs.frozen
class Same:
    """The argument itself, changed in place."""

    argument: int


@attrs.frozen
class View:
    """A tensor on an argument's storage."""

    argument: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device


@attrs.frozen
class Fresh:
    """A tensor on a storage of its own."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@attrs.frozen
class Several:
    """A tuple or a list."""

    kind: type
    parts: tuple[Any, ...]


@attrs.frozen
class Value:
    """No tensor."""

    value: Any


@attrs.frozen(eq=False)
class Operator:
    """What every call of an operator asks for: it is found once. By itself it is a name that is quick to look up, which
    `func` is not."""

    func: Any
    told: bool
    asks: bool
    writes: tuple[int, ...]
    """Which of its arguments it changes."""


_operators: dict[int, Operator] = {}


def operator(func: Any) -> Operator:
    """The operator's own; it holds `func`, so that no other one gets its `id`."""
    found = _operators.get(id(func))
    if found is None:
        schema = getattr(func, "_schema", None)
        arguments = () if schema is None else schema.arguments
        writes = tuple(at for at, one in enumerate(arguments) if one.alias_info and one.alias_info.is_write)
        found = _operators[id(func)] = Operator(func, told_by_shapes(func), asks(func), writes)
    return found


class Fakes(FakeTensorMode):
    """The mode of fake tensors. What is known of operators serves every trace of the process."""

    known: ClassVar[dict[Name, Any]] = {}

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.cache_enabled = False  # torch's own
        self._attributes: dict[torch.device, dict[str, Any]] = {}

    def call(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Tensor], Name]:
        """What the operator gives, the tensors among its arguments, and its name. Called where the mode is active."""
        of = operator(func)
        name, given = _name(of, args, kwargs)
        stand_in = answer(func, args) if of.asks else None
        if stand_in is not None:
            out = stand_in(*args, **kwargs)
        elif func is LIFT and type(args[0]) is Tensor and args[0].numel() == 1:
            out = self._constant(args[0])
        else:
            recipe = self.known.get(name)
            out = func(*args, **kwargs) if recipe is None else self._made(recipe, given)
        follow(func, args, kwargs, out)
        return out, given, name

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The same where the mode is asked by torch: of what is not known, and of the operators that it is made of."""
        kwargs = kwargs or {}
        name, given = _name(operator(func), args, kwargs)
        recipe = self.known.get(name)
        if recipe is not None:
            return self._made(recipe, given)
        out = super().dispatch(func, types, args, kwargs)
        if name is not None:
            with torch._C._DisableTorchDispatch(), suppress(Unknown):
                self.known[name] = _recipe(out, given, _owners(given), set())
        return out

    def _made(self, recipe: Any, given: list[Tensor]) -> Any:
        with torch._C._DisableTorchDispatch():
            return self._of(recipe, given)

    def _of(self, recipe: Any, given: list[Tensor]) -> Any:
        kind = type(recipe)
        if kind is Fresh:
            elem = torch.empty_strided(recipe.shape, recipe.stride, dtype=recipe.dtype, device=META)
            return self._fake(elem, recipe.device)
        if kind is View:
            storage = given[recipe.argument].untyped_storage()
            elem = torch.empty(0, dtype=recipe.dtype, device=META)
            elem.set_(storage, recipe.offset, recipe.shape, recipe.stride)
            return self._fake(elem, recipe.device)
        if kind is Same:
            return given[recipe.argument]
        if kind is Several:
            return recipe.kind(self._of(part, given) for part in recipe.parts)
        return recipe.value

    def _constant(self, number: Tensor) -> Tensor:
        """What `torch.tensor(1.0)` gives: its value is known to the fake tensor, too."""
        with torch._C._DisableTorchDispatch():
            elem = torch.empty_strided(number.shape, number.stride(), dtype=number.dtype, device=META)
            made = self._fake(elem, number.device)
            made.constant = number.clone()
        self.fake_tensor_converter.add_constant_storage_mapping(made)
        return made

    def _fake(self, elem: Tensor, device: torch.device) -> FakeTensor:
        """`FakeTensor(mode, elem, device)`, whose constructor takes longer than all else here."""
        made = Tensor._make_subclass(
            FakeTensor, elem, False, dispatch_device=True, device_for_backend_keys=device
        )
        if device not in self._attributes:
            self._attributes[device] = dict(FakeTensor(self, torch.empty(0, device=META), device).__dict__)
        made.__dict__.update(self._attributes[device])
        return made


def _name(of: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Name, list[Tensor]]:
    """The call's name, and the tensors among its arguments."""
    given: list[Tensor] = []
    key: list[Any] = [of, torch.get_default_dtype(), torch.is_inference_mode_enabled()]
    told = _describe(args, given, key)
    if kwargs:
        key += kwargs
        told = _describe(kwargs.values(), given, key) and told
    if not (told and of.told) or _computes(of, args, given):
        return None, given
    return tuple(key), given


def _computes(of: Operator, args: tuple[Any, ...], given: list[Any]) -> bool:
    """Whether torch computes the result, as it knows all arguments' values; or forgets one, which is changed."""
    known = [tensor.constant is not None for tensor in given]
    if not any(known):
        return False
    return all(known) or any(one.constant is not None for at in of.writes for one in tree_leaves(args[at]))


def told_by_shapes(func: Any) -> bool:
    """Whether an operator's results follow from its arguments' shapes, and it changes none of them."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace == "prim":
        return False
    composite, whole = (
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)
        for key in ("CompositeImplicitAutograd", "CPU")
    )
    if composite and not whole:
        return False  # what it is made of may be another thing in the next trace (`kernels`)
    follows = (torch.Tag.data_dependent_output, torch.Tag.inplace_view)
    if any(tag in func.tags for tag in follows) or any(a.is_out for a in func._schema.arguments):
        return False
    # An index of integers has a result that follows; one of booleans is answered before.
    return torch.Tag.dynamic_output_shape not in func.tags or func is torch.ops.aten.index.Tensor


def _describe(values: Iterable[Any], given: list[Tensor], key: list[Any]) -> bool:
    """Add to `key` all that a result can depend on, to `given` the tensors; False where that is not all."""
    known = True
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            given.append(value)
            if (
                value.dispatch_keys is not None
                or value.dtype.is_complex
                or layout_of(value) is not torch.strided
            ):
                known = False
            else:
                key += (value.dtype, value.shape, value.stride(), value.storage_offset(), value._fake_device)
        elif kind in PLAIN:
            key += (kind, value)
        elif kind is torch.Generator:
            key.append(kind)
        elif kind in NESTED:
            key.append(len(value))
            known = _describe(value, given, key) and known
        else:
            known = False
            if isinstance(value, Tensor):
                given.append(value)
    return known


def _owners(given: list[Tensor]) -> dict[int, list[int]]:
    """Which arguments lie on each storage."""
    found: dict[int, list[int]] = {}
    for index, tensor in enumerate(given):
        found.setdefault(tensor.untyped_storage()._cdata, []).append(index)
    return found


def _recipe(out: Any, given: list[Tensor], owners: dict[int, list[int]], fresh: set[int]) -> Any:
    """How to make `out` of the arguments; `fresh` are the storages of the results before it. Raises Unknown."""
    if isinstance(out, list | tuple):  # of a named tuple the names are not kept
        kind = list if isinstance(out, list) else tuple
        return Several(kind, tuple(_recipe(part, given, owners, fresh) for part in out))
    if type(out) in (type(None), bool, int, float):
        return Value(out)
    if type(out) is not FakeTensor:
        raise Unknown
    storage = out.untyped_storage()
    owned = owners.get(storage._cdata, [])
    for index in owned:
        if given[index] is out:
            return Same(index)
    if out.constant is not None or out.requires_grad:
        raise Unknown
    if out.dtype.is_complex or layout_of(out) is not torch.strided or out.dispatch_keys is not None:
        raise Unknown
    shape, stride = tuple(out.shape), out.stride()
    if len(owned) == 1:
        return View(owned[0], shape, stride, int(out.storage_offset()), out.dtype, out.fake_device)
    plain = torch.empty_strided(shape, stride, dtype=out.dtype, device=META).untyped_storage()
    if owned or storage._cdata in fresh or out.storage_offset() or plain.nbytes() != storage.nbytes():
        raise Unknown
    fresh.add(storage._cdata)
    return Fresh(shape, stride, out.dtype, out.fake_device)
