"""Every way a run can end, each with its exit code.

- A user's mistake is a `Problem`: where it is, what is wrong, what to do.
- One error carries *all* problems found, so that nobody mends them one a run.
- Anything that is not a `LoracError` is a bug of ours (exit code 1).
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

SHOWN = 12
"""How many problems an error prints; the rest are counted."""
ALIKE = 2
"""How many of those that say the same of several places, where not all are printed."""


@attrs.frozen
class Problem:
    """One thing wrong: `where` (file, file:line or field), `what`, and a `hint` with one action."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return visible(f"{self.where}: {self.what}" if self.where else self.what)


def visible(text: str) -> str:
    """Text as it may be shown on a terminal: control characters (file names, captions) are escaped."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


class LoracError(Exception):
    """A failure that a person can mend. `exit_code` is what the process ends with."""

    exit_code = 1

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))

    def lines(self) -> list[str]:
        """What goes to stderr: `error: …` for each problem (the first few), then each distinct `hint: …` once."""
        kinds: dict[tuple[str, str], list[Problem]] = {}
        for problem in self.problems:
            kinds.setdefault((problem.what, problem.hint), []).append(problem)
        shown: list[str] = []
        left = len(self.problems)
        most = left if left <= SHOWN else ALIKE
        for alike in kinds.values():
            if len(shown) >= SHOWN:
                break
            shown += [f"error: {problem}" for problem in alike[:most]]
            if len(alike) > most:
                shown[-1] += f"      (+ {len(alike) - most:,} like it)"
            left -= len(alike)
        if left:
            shown[-1] += f"      (+ {left:,} more)"
        hints = dict.fromkeys(visible(hint) for _, hint in list(kinds)[:SHOWN] if hint)
        return shown + [f"hint: {hint}" for hint in hints]


class SpecError(LoracError):
    """The spec, or how the command was called."""

    exit_code = 2


class InputError(LoracError):
    """The data or the base model."""

    exit_code = 3


class PlanError(LoracError):
    """The plan is not valid, or its inputs changed since it was made."""

    exit_code = 4


class OtherFormat(PlanError):
    """A plan of another lorac, older or newer: whole, and not for this one to read."""


class MachineError(LoracError):
    """The device, versions, disk or memory."""

    exit_code = 5


class DoesNotFit(MachineError):
    """No point of the experiment fits: the least peak found, of what may be used, in bytes."""

    def __init__(self, problem: Problem, peak_bytes: int, usable_bytes: int) -> None:
        self.peak_bytes, self.usable_bytes = peak_bytes, usable_bytes
        super().__init__(problem)


class Lost(MachineError):
    """Another process of the run has ended."""


class DivergedError(LoracError):
    """Training went to nowhere: loss not finite, or nothing learns."""

    exit_code = 6


class Told(LoracError):
    """A process that we started failed and has said why; this one ends with its exit code and adds nothing."""

    def __init__(self, exit_code: int) -> None:
        super().__init__([])
        self.exit_code = exit_code


class Interrupted(LoracError):
    """Stopped on request with everything saved; it can go on."""

    exit_code = 130
