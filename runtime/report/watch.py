"""`python -m runtime.report.watch RUN`: a run's page while it goes on, on the loopback address alone.

- It only reads the run's folder and writes nothing: stopping it never touches the run.
- It answers two paths, from what it renders itself; no path of a request ever becomes a file's.
- A request must name this server as its Host, and come from no other site's page (DNS rebinding, cross-site requests).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
import webbrowser
from collections.abc import Callable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

from runtime.ending import ended
from runtime.errors import LoracError, MachineError, Problem
from runtime.report import page
from runtime.report.gather import gather

LOOPBACK = "127.0.0.1"
PORT = 7861
"""One above the WebUI's own."""
WATCHED = (
    "logs/metrics.jsonl",
    "samples",
    "sheet.png",
    "grid.png",
    "evaluation.json",
    "advice.json",
    "plan.json",
)


def state(folder: Path) -> str:
    """A word that changes whenever what the page shows does: over sizes and times of its files."""
    seen = []
    for name in (*WATCHED, *sorted(path.name for path in folder.glob("*.lorac.json"))):
        path = folder / name
        for one in sorted(path.iterdir()) if path.is_dir() else [path]:
            try:
                found = one.stat()
            except OSError:
                continue
            seen.append(f"{one.name} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:16]


class Watcher(BaseHTTPRequestHandler):
    """Answers `/` with the page and `/state` with the folder's state; all else is refused."""

    protocol_version = "HTTP/1.1"
    server_version = "lorac"
    sys_version = ""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]  # request, address, server, as socketserver gives them

    def handle(self) -> None:
        """Browsers hang up in the middle of an answer when a page is closed or loaded anew: that is no error."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        if not self._is_ours():
            self._answer(403, "text/plain", "not from here")
        elif self.path == "/":
            self._answer(*self._page())
        elif self.path == "/state":
            self._answer(200, "text/plain", state(self.folder))
        else:
            self._answer(404, "text/plain", "nothing here")

    def _is_ours(self) -> bool:
        """The Host is this server, and an Origin, where there is one, is too."""
        port = cast(ThreadingHTTPServer, self.server).server_port
        hosts = {f"{LOOPBACK}:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in hosts and (
            origin is None or origin in {f"http://{one}" for one in hosts}
        )

    def _page(self) -> tuple[int, str, str]:
        try:
            return 200, "text/html; charset=utf-8", page.render(gather(self.folder), live=state(self.folder))
        except LoracError as error:
            return 503, "text/plain; charset=utf-8", "\n".join(error.lines())

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is said of requests."""


def serve(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server for the folder, not started. Port 0 takes any. Raises InputError for no run, MachineError for a port
    that is taken."""
    gather(folder)
    make: Callable[..., BaseHTTPRequestHandler] = partial(Watcher, folder)
    try:
        return ThreadingHTTPServer((LOOPBACK, port), make)
    except OSError as error:
        hint = "give another: --port 0 takes any that is free"
        raise MachineError(Problem(f"port {port}", f"cannot be taken: {error.strerror}", hint)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C, which is how it ends."""
    parser = argparse.ArgumentParser(prog="python -m runtime.report.watch", allow_abbrev=False)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--port", type=int, default=PORT, help=f"on {LOOPBACK} (default: {PORT})")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    return ended(lambda: _watch(options.run, options.port, options.open), lambda: options.debug)


def _watch(folder: Path, port: int, show: bool) -> None:
    with serve(folder, port) as server:
        place = f"http://{LOOPBACK}:{server.server_address[1]}/"
        sys.stdout.write(f"watching {folder} at {place} (Ctrl-C ends this, not the run)\n")
        sys.stdout.flush()
        if show:
            webbrowser.open(place)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
