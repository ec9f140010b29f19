"""A pickle read without running any of it.

A pickle is a program for a small stack machine. Python's own machine imports and calls what the program
names; this one has a closed table of functions, all written here, and everything else that a file names
becomes a `Dead` placeholder. Calling a placeholder gives a placeholder; setting its state does nothing.
Nothing is imported, no attribute of anything is looked up or set, no file's value is hashed or compared
unless it is a string.

Bounds, since a pickle may also be a bomb: each opcode makes one small object at most, values are shared and
never copied, opcodes and bytes are limited, and numbers above 128 bits become placeholders.
`pickletools.genops` (standard library) splits the bytes into opcodes and arguments; it makes nothing but
numbers and strings.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

import attrs

from runtime.errors import InputError, Problem

BYTES_LIMIT = 16 * 2**20
"""Of a pickle at most, which holds no weights: some 150 for each tensor."""

OPCODES_LIMIT = 1_000_000
"""At most: some 35 for each tensor."""

MEMO_LIMIT = 2**32
WIDEST = 2**128


class Damaged(Exception):
    """Why a pickle cannot be read; the caller adds which file."""


class Dead:
    """Stands for whatever the file wanted to make. `items` holds what was stored under string keys."""

    __slots__ = ("items", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: dict[str, Any] | None = None


@attrs.frozen(eq=False)
class Known:
    """A name of the closed table: `call` is ours and gets the arguments that the file gives."""

    call: Callable[[tuple[Any, ...]], Any]


Table = dict[tuple[str, str], Any]
"""What a (module, name) stands for: a Known function or a plain value; all others are Dead."""


@attrs.define(eq=False)
class _Machine:
    table: Table
    persistent: Callable[[Any], Any]
    stack: list[Any] = attrs.field(factory=list)
    marks: list[int] = attrs.field(factory=list)
    memo: dict[int, Any] = attrs.field(factory=dict)


def read(data: io.BytesIO, table: Table, persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle that starts at `data`'s position, which then is just behind it.

    `persistent` gives the value for a persistent id. Raises Damaged.
    """
    machine = _Machine(table, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > OPCODES_LIMIT:
                raise Damaged(f"it has more than {OPCODES_LIMIT:,} steps")
            STEPS[opcode.name](machine, argument)
        return machine.stack[-1]
    except (IndexError, KeyError):
        raise Damaged("its steps do not fit together") from None
    except (ValueError, OverflowError, Warning):  # genops: cut short, an unknown opcode, broken text
        raise Damaged("it is cut short or not a pickle") from None


def strings_of(value: Any) -> dict[str, Any] | None:
    """What a dict, or a placeholder used as one, holds under string keys; None for other values."""
    if isinstance(value, Dead):
        return value.items
    return value if isinstance(value, dict) else None


def _push(machine: _Machine, value: Any) -> None:
    if type(value) is int and not -WIDEST < value < WIDEST:
        value = Dead("a number beyond 128 bits")
    machine.stack.append(value)


def _since_mark(machine: _Machine) -> list[Any]:
    mark = machine.marks.pop()
    items = machine.stack[mark:]
    del machine.stack[mark:]
    return items


def _store(target: Any, key: Any, value: Any) -> None:
    """Only under strings: nested tuples can take for ever to hash, and numbers can be made to collide."""
    if type(key) is not str:
        return
    if isinstance(target, Dead):
        target.items = target.items if target.items is not None else {}
        target.items[key] = value
    elif isinstance(target, dict):
        target[key] = value


def _store_all(target: Any, pairs: list[Any]) -> Any:
    for key, value in zip(pairs[::2], pairs[1::2], strict=False):
        _store(target, key, value)
    return target


def _extend(machine: _Machine, items: list[Any]) -> None:
    if isinstance(machine.stack[-1], list):
        machine.stack[-1].extend(items)


def _name(machine: _Machine, module: Any, name: Any) -> Any:
    if type(module) is str and type(name) is str:
        return machine.table.get((module, name)) or Dead(f"{module}.{name}")
    return Dead("a name that is not text")


def _call(function: Any, arguments: Any) -> Any:
    if isinstance(function, Known) and isinstance(arguments, tuple):
        return function.call(arguments)
    return Dead(function.name if isinstance(function, Dead) else "a call of a value")


def _mark(machine: _Machine, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: _Machine, _: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.stack.pop()


def _pop_mark(machine: _Machine, _: Any) -> None:
    _since_mark(machine)


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        items = [machine.stack.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return step


def _append(machine: _Machine, _: Any) -> None:
    item = machine.stack.pop()
    _extend(machine, [item])


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _store(machine.stack[-1], key, value)


def _set_items(machine: _Machine, _: Any) -> None:
    pairs = _since_mark(machine)
    _store_all(machine.stack[-1], pairs)


def _put(machine: _Machine, index: int) -> None:
    if not 0 <= index < MEMO_LIMIT:
        raise Damaged("it remembers a value under an impossible number")
    machine.memo[index] = machine.stack[-1]


def _global(machine: _Machine, names: str) -> None:
    module, _, name = names.partition(" ")
    machine.stack.append(_name(machine, module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_name(machine, module, name))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_call(function, arguments))


def _new_with_keywords(machine: _Machine, _: Any) -> None:
    _, arguments, function = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_call(function, arguments))


def _object(machine: _Machine, _: Any) -> None:
    function, *arguments = _since_mark(machine) or [None]
    machine.stack.append(_call(function, tuple(arguments)))


def _instance(machine: _Machine, names: str) -> None:
    arguments = _since_mark(machine)
    module, _, name = names.partition(" ")
    machine.stack.append(_call(_name(machine, module, name), tuple(arguments)))


def _build(machine: _Machine, _: Any) -> None:
    machine.stack.pop()  # the state: nobody's __setstate__ or __dict__ gets it


def _persistent(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.persistent(machine.stack.pop()))


def _nothing(machine: _Machine, _: Any) -> None:
    """PROTO, FRAME, STOP and READONLY_BUFFER change no value."""


def _buffer(machine: _Machine, _: Any) -> None:
    machine.stack.append(Dead("a buffer outside the file"))


def _extension(machine: _Machine, code: int) -> None:
    machine.stack.append(Dead(f"extension {code}"))


STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append([]),  # members would have to be hashed
    "TUPLE": lambda machine, _: machine.stack.append(tuple(_since_mark(machine))),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": lambda machine, _: machine.stack.append(_since_mark(machine)),
    "FROZENSET": lambda machine, _: machine.stack.append(_since_mark(machine)),
    "DICT": lambda machine, _: machine.stack.append(_store_all({}, _since_mark(machine))),
    "APPEND": _append,
    "APPENDS": lambda machine, _: _extend(machine, _since_mark(machine)),
    "ADDITEMS": lambda machine, _: _extend(machine, _since_mark(machine)),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "OBJ": _object,
    "INST": _instance,
    "BUILD": _build,
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "PERSID": lambda machine, name: machine.stack.append(machine.persistent(name)),
    "BINPERSID": _persistent,
    "NEXT_BUFFER": _buffer,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"),
        lambda machine, index: machine.stack.append(machine.memo[index]),
    ),
    **dict.fromkeys(("PROTO", "FRAME", "STOP", "READONLY_BUFFER"), _nothing),
    **dict.fromkeys(
        ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _push
    ),
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"), _push
    ),
    **dict.fromkeys(("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push),
}
"""What each opcode of the pickle protocols 0 to 5 does; a test holds this complete."""


def problem(where: str, why: Damaged) -> InputError:
    """The user's line for a pickle that cannot be read."""
    return InputError(Problem(where, f"is a damaged checkpoint: {why}", "fetch the file again"))
