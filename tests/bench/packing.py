"""How many cards a day's LoRAs need, packed by lorac's figures: `python -m tests.bench.packing PLAN=SHARE…`.

A simulation, not a measurement. Jobs arrive at random over a day (a Poisson process), each a plan of the mix by its
share. Two ways to place them: each has a card alone, as where nobody knows what a job takes; or it goes to a card on
which its peak, from its plan, is still free, the fullest such card first (best fit). First come, first served.

Assumptions, all in the figures' `assumptions`:
- A job has START seconds of loading and encoding, in which the card computes nothing, before its steps; then the plan's
  seconds. Peaks are the plan's, of its worst phase, and each process loads its own base: nothing is shared.
- A step alone keeps the card busy for the share BUSY of its time (the rest is the host, data, gaps between kernels).
  Jobs of one card take turns: where their shares sum to more than 1, all are slowed alike. Packing makes no card
  faster: with BUSY at 1 it gains the starts alone.
- A fleet is large enough when 95 % of the jobs wait less than WAIT seconds.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from runtime import plan

DAY = 86_400.0
PERCENTILE = 95


@attrs.frozen(kw_only=True)
class Kind:
    """One kind of job: bytes at its worst phase, seconds of its steps, and its share of all jobs."""

    name: str
    peak: int
    seconds: float
    share: float


@attrs.define(kw_only=True)
class Job:
    """One job on a card: when its start-up is over, and the seconds of steps that it has left, alone on the card."""

    peak: int
    ready: float
    left: float


@attrs.define(kw_only=True)
class Card:
    """A card with its jobs, brought up to `now`. `version` tells outdated events from current ones."""

    free: int
    jobs: list[Job] = attrs.field(factory=list)
    now: float = 0.0
    version: int = 0

    def rate(self, busy: float) -> float:
        """Seconds of steps that each stepping job gets a second."""
        stepping = sum(job.ready <= self.now for job in self.jobs)
        return 1.0 if stepping * busy <= 1 else 1 / (stepping * busy)

    def advance(self, to: float, busy: float) -> None:
        """Let the jobs step until `to`, before which nothing on this card begins or ends."""
        done = (to - self.now) * self.rate(busy)
        for job in self.jobs:
            if job.ready <= self.now:
                job.left -= done
        self.now = to

    def next_change(self, busy: float) -> float:
        """When the next job begins to step, or ends."""
        rate = self.rate(busy)
        return min(job.ready if job.ready > self.now else self.now + job.left / rate for job in self.jobs)

    def drop_ended(self) -> None:
        for job in [job for job in self.jobs if job.ready <= self.now and job.left <= 1e-6]:
            self.jobs.remove(job)
            self.free += job.peak


def waits(
    arrivals: Sequence[float],
    kinds: Sequence[Kind],
    cards: int,
    usable: int,
    start: float,
    busy: float,
    packed: bool,
) -> list[float]:
    """How long each job waits for its place, in seconds, on so many cards."""
    fleet = [Card(free=usable) for _ in range(cards)]
    events = [
        (when, 0, number, 0) for number, when in enumerate(arrivals)
    ]  # (when, 1 for a card's, which, version)
    heapq.heapify(events)
    waiting: list[int] = []
    found = [0.0] * len(arrivals)
    while events:
        now, is_card, which, version = heapq.heappop(events)
        touched: set[int] = set()
        if not is_card:
            waiting.append(which)
        elif version != fleet[which].version:
            continue
        else:
            fleet[which].advance(now, busy)
            fleet[which].drop_ended()
            touched.add(which)
        while waiting:
            kind = kinds[waiting[0]]
            place = _place(fleet, kind.peak if packed else usable)
            if place is None:
                break
            number, card = waiting.pop(0), fleet[place]
            if place not in touched:
                card.advance(now, busy)
                touched.add(place)
            taken = kind.peak if packed else usable
            card.free -= taken
            card.jobs.append(Job(peak=taken, ready=now + start, left=kind.seconds))
            found[number] = now - arrivals[number]
        for at in touched:
            fleet[at].version += 1
            if fleet[at].jobs:
                heapq.heappush(events, (fleet[at].next_change(busy), 1, at, fleet[at].version))
    return found


def _place(fleet: Sequence[Card], need: int) -> int | None:
    """The fullest card that has room."""
    fitting = [(card.free, at) for at, card in enumerate(fleet) if card.free >= need]
    return min(fitting)[1] if fitting else None


def cards_needed(
    arrivals: Sequence[float],
    kinds: Sequence[Kind],
    usable: int,
    start: float,
    busy: float,
    wait: float,
    packed: bool,
) -> int:
    """The fewest cards on which the 95th percentile of waits is at most `wait`."""

    def is_enough(cards: int) -> bool:
        found = waits(arrivals, kinds, cards, usable, start, busy, packed)
        return float(np.percentile(found, PERCENTILE)) <= wait

    few, many = 0, 1
    while not is_enough(many):
        few, many = many, many * 2
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if is_enough(middle) else (middle, many)
    return many


def kind_of(argument: str) -> tuple[Kind, int]:
    """The kind of job that PLAN=SHARE names, and what of its card may be used."""
    path, _, share = argument.rpartition("=")
    of = plan.read(Path(path))
    peak = max(of.estimate.peak_bytes, *of.estimate.phases.values())
    kind = Kind(name=of.outputs.name, peak=peak, seconds=of.estimate.seconds, share=float(share))
    return kind, of.estimate.usable_bytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.packing")
    parser.add_argument("plans", nargs="+", metavar="PLAN=SHARE", help="all for the same card")
    parser.add_argument("--jobs", type=int, default=5000, help="a day")
    parser.add_argument("--start", type=float, default=60.0, help="seconds")
    parser.add_argument("--wait", type=float, default=300.0, help="seconds")
    parser.add_argument("--busy", default="1.0,0.8,0.6,0.4", help="shares to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    read = [kind_of(argument) for argument in options.plans]
    mix, room = [kind for kind, _ in read], read[0][1]
    if any(other != room for _, other in read):
        parser.error("the plans are for different cards")
    draw = np.random.default_rng(options.seed)
    arrivals = np.sort(draw.uniform(0, DAY, options.jobs)).tolist()
    shares = np.array([kind.share for kind in mix])
    kinds = [mix[at] for at in draw.choice(len(mix), options.jobs, p=shares / shares.sum())]
    table = []
    for busy in (float(one) for one in options.busy.split(",")):
        alone, packed = (
            cards_needed(arrivals, kinds, room, options.start, busy, options.wait, is_packed)
            for is_packed in (False, True)
        )
        table.append({"busy": busy, "one_a_card": alone, "packed": packed, "ratio": round(alone / packed, 2)})
    figures: dict[str, Any] = {
        "command": "python -m tests.bench.packing " + " ".join(sys.argv[1:]),
        "assumptions": {
            "jobs_a_day": options.jobs,
            "start_seconds": options.start,
            "wait_seconds": options.wait,
            "seed": options.seed,
            "usable_bytes": room,
            "mix": [attrs.asdict(kind) for kind in mix],
        },
        "cards": table,
    }
    text = json.dumps(figures, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
