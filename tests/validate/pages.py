"""A run's page in a real browser: `python -m tests.validate.pages RUN/report.html [--screens DIR]`.

Wants the package playwright and a Chromium (`--browser`, default: `chromium` on the path). For a light and a dark page,
on a desk and on a phone: no message on the console, nothing wider than the screen, every text's contrast at least 4.5
(WCAG 2.2, 1.4.3), zooming by keyboard and by mouse. Exit code 1 where one of these fails.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

LEAST_CONTRAST = 4.5
WORST_CONTRAST = """() => {
  const light = colour => colour.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const parts = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/rgba\\(0, 0, 0, 0\\)|transparent/.test(colour)) return parts(colour);
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  const texts = "p, td, th, dt, dd, a, span, b, h1, h2, h3, figcaption, button, footer, code";
  for (const one of document.querySelectorAll(texts)) {
    if (!one.textContent.trim()) continue;
    const both = [light(parts(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (ratio < worst[0]) worst = [ratio, one.tagName + " " + one.className];
  }
  return worst;
}"""


def main() -> int:
    options = parser().parse_args()
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for width in (1100, 390):
                wrong += looked_at(browser, options.page.resolve(), scheme, width, options.screens)
        browser.close()
    for line in wrong:
        sys.stdout.write(f"WRONG {line}\n")
    return 1 if wrong else 0


def looked_at(browser: Any, path: Path, scheme: str, width: int, screens: Path | None) -> list[str]:
    """What is wrong with the page, seen in this way."""
    said: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: said.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.goto(path.as_uri())
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        said.append("it is wider than the screen")
    contrast, where = page.evaluate(WORST_CONTRAST)
    if contrast < LEAST_CONTRAST:
        said.append(f"contrast {contrast:.1f} of {where}")
    said += zoomed(page)
    if screens is not None:
        screens.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=screens / f"{scheme}-{width}.png", full_page=True)
    page.close()
    sys.stdout.write(f"{scheme}, {width} px: least contrast {contrast:.1f}\n")
    return [f"{scheme}, {width} px: {line}" for line in said]


def zoomed(page: Any) -> list[str]:
    """Zooms the first chart by keyboard and by mouse; what did not answer."""
    chart, axis = (page.locator(f"figure.chart {part}").first for part in ("svg", ".x"))
    whole = axis.inner_text()
    chart.focus()
    page.keyboard.press("+")
    near = axis.inner_text()
    page.keyboard.press("ArrowRight")
    moved = axis.inner_text()
    page.keyboard.press("0")
    back = axis.inner_text()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60)
    page.mouse.up()
    dragged = axis.inner_text()
    answers = {"+": near != whole, "→": moved != near, "0": back == whole, "dragging": dragged != whole}
    return [f"{name} does not zoom" for name, is_well in answers.items() if not is_well]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("page", type=Path, help="a report.html")
    made.add_argument("--browser", default=shutil.which("chromium"), help="a Chromium's path")
    made.add_argument("--screens", type=Path, help="where to put pictures of the page")
    return made


if __name__ == "__main__":
    sys.exit(main())
