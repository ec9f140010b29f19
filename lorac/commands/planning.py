"""`lorac plan`, `fit`, `explain`, `diff`: from a spec to plans, and what is in them."""

from __future__ import annotations

from pathlib import Path

import attrs
import click

from lorac.commands.calling import A_PATH, CARD, GENERATED, command, planned
from lorac.terminal import block, print_json, say, telling, uncollected, width


@command(
    "plan",
    click.argument("spec", type=A_PATH),
    CARD,
    click.option("--unlocked", is_flag=True, help="Plan though the base or the data is not here."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object (a sweep: a list)."),
    click.option("--out", type=A_PATH, default=GENERATED, show_default=True, help="Where the plans go."),
    click.option("--verify", is_flag=True, help="Hash every file, even where size and times are as before."),
)
def plan_(spec: Path, card: str | None, unlocked: bool, as_json: bool, out: Path, verify: bool) -> None:
    """Compile a spec into a plan.

    Writes OUT/NAME/plan.json and says what was decided, why, and what it will cost. A spec is a Python
    program, and planning runs it: read a stranger's first.
    """
    if verify:
        from lorac.places import cache_folder
        from runtime.safeio import digest

        digest.forget(cache_folder())
    written = planned(spec, out, card, unlocked)
    if as_json:
        answers = [one.answer() for one in written]
        print_json(answers if len(answers) > 1 else answers[0])
        return
    from lorac.render import plan_text

    say("\n\n\n".join(plan_text(one.plan, one.path, width(), block()) for one in written))


@command(
    "fit",
    click.argument("spec", type=A_PATH),
    click.option("--cards", metavar="A,B,…", required=True, help='Cards to compare: "8GB,12GB,rtx4090".'),
    click.option("--unlocked", is_flag=True, help="Plan though the base or the data is not here."),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list."),
)
def fit_(spec: Path, cards: str, unlocked: bool, as_json: bool) -> None:
    """Compare cards: the best plan of a spec for each.

    Writes nothing. A card where nothing fits says by how much, and what would help.
    """
    from lorac.load import load

    loaded = load(spec)
    names = [name.strip() for name in cards.split(",") if name.strip()]
    with uncollected(), telling() as tell:
        from lorac.fit import fit
        from lorac.render import fit_text

        rows = fit(loaded, names, Path.cwd(), unlocked=unlocked, tell=tell)
    if as_json:
        print_json([attrs.asdict(row) for row in rows])
        return
    say(fit_text(rows, width()))


@command(
    "explain",
    click.argument("what", metavar="PLAN", type=A_PATH),
    click.option("--svg", type=A_PATH, metavar="FILE", help="Draw one step's memory over time there."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)
def explain_(what: Path, svg: Path | None, as_json: bool) -> None:
    """Show where a plan's memory goes, and what each change would buy.

    PLAN is a plan.json or its folder; neither base nor data is needed.
    """
    from lorac.launch import plan_in
    from runtime import plan

    of = plan.read(plan_in(what))
    from lorac.places import cache_folder
    from lorac.render import explain_text

    with uncollected(), telling() as tell:
        from lorac.explain import draw, explain

        found = explain(of, cache_folder(), tell)
        if svg is not None:
            draw(of, cache_folder(), svg)
    if as_json:
        print_json(attrs.asdict(found))
        return
    say(explain_text(found, width(), block()))
    if svg is not None:
        say(f"\nwrote {svg}")


@command("diff", click.argument("before", type=A_PATH), click.argument("after", type=A_PATH))
def diff(before: Path, after: Path) -> None:
    """Show what differs between two plans.

    What decides the trained bytes comes first.
    """
    from lorac.diff import differences
    from lorac.launch import plan_in
    from lorac.render import changes_text
    from runtime import plan

    left, right = (plan.read(plan_in(path)) for path in (before, after))
    say(changes_text(differences(left, right), width()))
