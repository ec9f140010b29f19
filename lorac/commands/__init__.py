"""The commands of the command line: a file for each topic, a line for each command in this closed registry.

A command's module is imported when it is called, or when help lists it; what does the work is imported inside it.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click

COMMANDS: dict[str, dict[str, str]] = {
    "Prepare the data": {
        "label": "lorac.commands.data:label",
        "check": "lorac.commands.data:check",
    },
    "Plan and run": {
        "plan": "lorac.commands.planning:plan_",
        "run": "lorac.commands.running:run",
        "sweep": "lorac.commands.looping:sweep_",
        "loop": "lorac.commands.looping:loop_",
        "fit": "lorac.commands.planning:fit_",
        "explain": "lorac.commands.planning:explain_",
        "diff": "lorac.commands.planning:diff",
    },
    "Look at a run": {
        "report": "lorac.commands.looking:report",
        "watch": "lorac.commands.looking:watch",
        "compare": "lorac.commands.looking:compare",
    },
    "Use what was trained": {
        "verify": "lorac.commands.running:verify",
        "reproduce": "lorac.commands.running:reproduce",
        "install": "lorac.commands.running:install",
        "chat": "lorac.commands.running:chat",
        "eval": "lorac.commands.looking:eval_",
        "advise": "lorac.commands.advising:advise_",
        "lora": "lorac.commands.lora:lora",
    },
    "Write a spec": {
        "spec": "lorac.commands.writing:spec_",
        "import": "lorac.commands.writing:import_",
    },
    "This machine": {
        "doctor": "lorac.commands.machine:doctor",
        "calibrate": "lorac.commands.machine:calibrate_",
    },
}
"""Heading -> command -> where it is, in the order of the help."""


def find(name: str) -> click.Command | None:
    """The command of that name; None where there is none."""
    place = next((names[name] for names in COMMANDS.values() if name in names), None)
    if place is None:
        return None
    module, _, attribute = place.partition(":")
    return cast(click.Command, getattr(import_module(module), attribute))
