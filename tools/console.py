"""Streams: what is printed where, in which characters, and files that are written whole or not at all.

Data goes to standard output, everything else to standard error. Output is ASCII when a stream is
not UTF-8, so that no terminal or pipe can fail on a character.
"""

from __future__ import annotations

import codecs
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

_PLAIN = {
    "×": "x", "µ": "u", "μ": "u", "–": "-", "—": "-", "−": "-", "≤": "<=", "≥": ">=", "≈": "~", "±": "+-",
    "…": "...", "→": "->", "“": '"', "”": '"', "‘": "'", "’": "'", "²": "2", "·": ".", "█": "#", " ": " ",
}  # fmt: skip


def _ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("decodelab_ascii", _ascii)


def is_utf8(stream: Any) -> bool:
    """Whether a text stream writes UTF-8."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False


def prepare_streams() -> None:
    """Make standard output and standard error write plain ASCII when they are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if not is_utf8(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="ascii", errors="decodelab_ascii")


def message(text: str) -> None:
    """One line for the person at the terminal, on standard error."""
    _write(sys.stderr, text)


def data(text: str) -> None:
    """Text that was asked for, on standard output."""
    _write(sys.stdout, text)


def _write(stream: Any, text: str) -> None:
    """A line on a stream as `prepare_streams` left it: click.echo would put its own, in UTF-8, over an ASCII one."""
    stream.write(text + "\n")
    stream.flush()


def to_json(value: Any) -> str:
    """The one JSON form of every command: two spaces, ASCII, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False, default=_plain_number)


def _plain_number(value: Any) -> Any:
    if hasattr(value, "item"):  # a NumPy scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file completely or not at all: an interrupt leaves an older file as it was. Raises OSError."""
    from isa.files import write_atomically

    write_atomically(Path(path), content.encode() if isinstance(content, str) else content)


def check_writable(path: str | Path | None, *reads: Path) -> None:
    """Refuse an output path before the work instead of after it: one that cannot be written, or that is
    one of the files that the command `reads`. Raises ValueError with one sentence.
    """
    if path is None:
        return
    path = Path(path)
    for other in reads:
        if path.exists() and other.exists() and path.samefile(other):
            raise ValueError(f"cannot write {path}: it is what is being read; name another file")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():  # a pipe or a device
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent):  # os.access says yes where nothing can be made, as in /proc
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path}: folder {path.parent} takes no new file ({error.strerror})") from None


PATIENCE_SECONDS = 2.0  # shorter work shows nothing


class Progress:
    """A line of progress on standard error for work that takes longer than two seconds.

    On a terminal a bar with the elapsed time; once `step(done, total, what)` was called, which may be
    done as often as one likes, also the rate and the remaining time. Elsewhere one line at the end,
    unless the work failed (an exception, or `failed` was set).
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()
        self.failed = False
        self.bar: Any = None
        self.task: Any = None
        self.state: tuple[int, int | None, str] = (0, None, title)
        self.lock = threading.Lock()  # the bar may be opened by the timer
        self.timer = threading.Timer(PATIENCE_SECONDS, self._open)
        self.timer.daemon = True

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self.timer.start()
        return self

    def step(self, done: int, total: int, what: str = "") -> None:
        """So much is done; what: in place of the title."""
        with self.lock:
            self.state = (done, total, what or self.title)
            self._show()

    def _show(self) -> None:
        if self.bar is not None:
            done, total, what = self.state
            self.bar.update(self.task, completed=done, total=total, description=what)

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        class Rate(TaskProgressColumn):
            """Steps a second; nothing before the first."""

            def render(self, task: Any) -> Any:
                return self.render_speed(task.finished_speed or task.speed)

        with self.lock:
            self.bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self.task = self.bar.add_task(self.title, total=None)
            self._show()
            self.bar.start()

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.timer.cancel()
        if self.timer.ident is not None:
            self.timer.join()
        if self.bar is not None:
            self.bar.stop()
        elif error is None and not self.failed and time.monotonic() - self.started >= PATIENCE_SECONDS:
            message(f"{self.title}: {time.monotonic() - self.started:.0f} s")
