"""A run's page holds all of it, runs nothing of others, asks no network; it is there while the run goes on."""

from __future__ import annotations

import html
import http.client
import json
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from PIL import Image

from runtime import plan
from runtime.errors import InputError, SpecError
from runtime.report import compare, page, watch
from runtime.report.charts import MOST_POINTS, Chart, Line, smooth, thinned
from runtime.report.gather import Point, gather, metrics
from tests.runtime.plans import tiny_plan

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture
def run(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    """A run's folder after three of six steps, with a prompt and captions that mean harm."""
    of = tiny_plan(tiny_base, tiny_data)
    samples = attrs.evolve(of.outputs.samples, prompts=(HOSTILE,))  # type: ignore[arg-type]
    items = tuple(attrs.evolve(item, caption=HOSTILE) for item in plan.pictures(of.program.data).items)
    program = attrs.evolve(of.program, data=attrs.evolve(of.program.data, items=items))
    folder = tmp_path / "tiny"
    plan.write(
        plan.make(program, attrs.evolve(of.outputs, samples=samples), of.estimate), folder / "plan.json"
    )
    (folder / "logs").mkdir()
    lines = [
        {"step": step, "loss": 1 / step, "grad_norm": 0.5, "lr": 1e-3, "seconds": 0.1, "memory": 2**30}
        for step in (1, 2, 3)
    ]
    lines.append({"step": 3, "held_out/loss": 0.5})
    (folder / "logs" / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo'
    )
    (folder / "samples").mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "samples" / "000002-00.png")
    return folder


class Read(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_a_page_is_one_file_that_asks_nothing_of_a_network(run: Path) -> None:
    text = page.write(run).read_text(encoding="utf-8")

    places = [
        value for _, given in Read(text).tags for name, value in given.items() if name in ("src", "href")
    ]
    assert places and all(place and place.startswith(("data:", "#")) for place in places)
    assert "default-src 'none'" in text and "unsafe" not in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_what_a_caption_or_a_prompt_says_is_text_and_never_runs(run: Path) -> None:
    text = page.render(gather(run))

    assert HOSTILE not in text and "&lt;script&gt;" in text
    scripts = [given for tag, given in Read(text).tags if tag == "script"]
    assert [one.get("type") for one in scripts if one.get("type")] and scripts[-1] == {}
    assert sum("type" not in one for one in scripts) == 1
    assert not [name for _, given in Read(text).tags for name in given if name.startswith("on")]


def test_a_run_that_goes_on_shows_what_is_there_and_a_half_written_line_is_left_out(run: Path) -> None:
    text = page.render(gather(run))

    assert "at step 3; 6 steps on tiny" in text
    assert "3 of 6" in text
    for title in ("Loss", "Held-out loss", "Memory", "Gradient norm", "Learning rate", "Seconds a step"):
        assert f"<b>{title}</b>" in text
    assert "step 2</h3>" in text and "Use it" not in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run: it holds no plan"):
        gather(tmp_path)


def test_a_damaged_picture_or_evaluation_costs_only_itself(run: Path) -> None:
    (run / "sheet.png").write_bytes(b"no picture")
    (run / "evaluation.json").write_text("{")
    (run / "tiny.lorac.json").write_text("[]")

    assert "<b>Loss</b>" in page.render(gather(run))


def test_a_step_that_was_written_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 9.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": NaN}\n'
    )

    assert metrics(path) == {"loss": (Point(1, 1.0), Point(2, 2.0))}


def test_a_long_line_is_thinned_and_its_mean_is_kept() -> None:
    points = [Point(step, float(step % 7)) for step in range(10_000)]

    few = thinned(points)
    assert len(few) <= MOST_POINTS and few[-1].step == 9_999
    assert sum(p.value for p in few) / len(few) == pytest.approx(3.0, abs=0.01)
    assert [p.value for p in smooth(points[:1])] == [0.0]


def test_an_axis_never_goes_below_zero_for_what_cannot() -> None:
    line = Line("rate", (Point(0, 0.0), Point(10, 1e-3)))
    assert Chart(title="Learning rate", about="", lines=(line,)).y[0] == 0.0


def test_an_evaluation_is_a_table_with_intervals_and_its_reasons_and_warnings_are_said(run: Path) -> None:
    figure = {"mean": 0.25, "low": 0.2, "high": 0.3, "count": 4}
    row = {"step": 2, "weight": 0.8, "loss": figure, "copies": 0.5, "similarity": None}
    found = {
        "base": {**row, "step": 0, "weight": 0.0},
        "rows": [row],
        "chosen": {
            "step": 2,
            "weight": 0.8,
            "step_reason": "It is lowest.",
            "weight_reason": "it is nearest",
        },
        "warnings": ["half of them are copies"],
    }
    (run / "evaluation.json").write_text(json.dumps(found))
    text = page.render(gather(run))

    assert "<td>2</td><td>0.8</td><td>0.25 (0.2 to 0.3)</td><td>0.5</td>" in text
    assert "like its prompt" not in text
    assert "Recommended weight 0.8: it is nearest." in text and "half of them are copies" in text


# ------------------------------------------------------------------------------------------------------------- watching


@pytest.fixture
def served(run: Path) -> Iterator[tuple[str, int]]:
    server = watch.serve(run, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield str(server.server_address[0]), server.server_address[1]
    server.shutdown()
    server.server_close()


def ask(place: tuple[str, int], path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*place, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_watch_page_is_the_run_s_and_follows_it(served: tuple[str, int], run: Path) -> None:
    assert served[0] == "127.0.0.1"
    code, text = ask(served, "/")
    assert code == 200 and "connect-src 'self'" in html.unescape(text)
    _, before = ask(served, "/state")
    assert f'data-live="{before}"' in text
    with (run / "logs" / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 4, "loss": 0.1}\n')
    assert ask(served, "/state")[1] != before


@pytest.mark.parametrize("path", ["/plan.json", "/../plan.json", "//etc/passwd", "/?x", "/%2e%2e/plan.json"])
def test_no_path_of_a_request_becomes_a_file_s(served: tuple[str, int], path: str) -> None:
    assert ask(served, path) == (404, "nothing here")


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
def test_a_request_from_elsewhere_is_refused(served: tuple[str, int], headers: dict[str, str]) -> None:
    assert ask(served, "/", **headers)[0] == 403
    assert ask(served, "/state", **headers)[0] == 403


# ------------------------------------------------------------------------------------------------------------ comparing


def test_runs_side_by_side_say_what_differs(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    of = plan.read(run / "plan.json")
    train = attrs.evolve(of.program.train, learning_rate=0.5)
    plan.write(plan.make(attrs.evolve(of.program, train=train), of.outputs, of.estimate), other / "plan.json")

    runs = [gather(run), gather(other)]
    text = compare.compared(runs)
    assert list(compare.differing(runs)) == [("train.learning_rate", "0.01", "0.5")]
    assert "<td>train.learning_rate</td><td>0.01</td><td>0.5</td>" in text
    assert compare.labels(runs)[0] != compare.labels(runs)[1]


def test_a_comparison_is_a_table_and_as_json_numbers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    (other / "logs" / "metrics.jsonl").write_text('{"step": 2, "loss": 0.25}\n')
    called = [str(run), str(other), f"--out={tmp_path / 'compare.html'}"]

    assert compare.main(called) == 0
    rows = {line[:20].strip(): line[20:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["last loss"] == ["0.6111", "0.25"]
    assert rows["last held-out loss"] == ["0.5"]
    assert compare.main([*called, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["loss"] for one in found["runs"]] == [pytest.approx(11 / 18), 0.25]
    assert [one["held_out_loss"] for one in found["runs"]] == [0.5, None]
    assert (found["settings"], found["page"]) == ({}, str(tmp_path / "compare.html"))


def test_one_run_is_not_compared(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="2 to 4 runs can be compared, got 1"):
        compare._written([run], tmp_path / "compare.html", False)


def test_a_browser_that_hangs_up_is_no_error(
    served: tuple[str, int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def hung_up(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(watch.Watcher, "_answer", hung_up)
    with pytest.raises(http.client.RemoteDisconnected):
        ask(served, "/state", Host=f"127.0.0.1:{served[1]}")
    assert capfd.readouterr().err == ""
