"""Shows the progress of a run: follows `metrics.jsonl`, so it works for ranks in any process on any host."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from jobs.ranks.streams import screen

METRICS_FILE = "metrics.jsonl"
_POLL_SECONDS = 0.5
_LINE_EVERY_SECONDS = 10.0
_KNOWN_BYTES = 256
_HIDDEN = frozenset({"kind", "step", "time", "epoch", "base_rate", "rows", "mean_prediction", "mean_label"})


@contextmanager
def progress_bar(
    run_folder: str | Path,
    enabled: bool = True,
    *,
    stream: TextIO | None = None,
    line_every_seconds: float = _LINE_EVERY_SECONDS,
) -> Iterator[None]:
    """Show step, samples/s, loss and time left on stderr while the ranks work.

    A terminal gets a bar, anything else a line now and then. Evaluations get a line of their own,
    and findings of the training guard a few.

    Args:
        run_folder: the run folder; it and its `metrics.jsonl` may come later.
        enabled: False shows nothing.
        stream: where to show it; default stderr.
        line_every_seconds: time between lines where there is no terminal.
    """
    if not enabled:
        yield
        return
    with screen() as default:
        target = default if stream is None else stream
        view = _Bar(target) if target.isatty() else _Lines(target, line_every_seconds)
        follower = _Follower(Path(run_folder) / METRICS_FILE, view)
        follower.start()
        try:
            yield
        finally:
            follower.finish()


@dataclass(frozen=True)
class Progress:
    """How far a run is, as its records tell.

    Attributes:
        step: last step reported.
        first_step: step at which this launch began.
        total_steps: step at which the run ends; 0 until known.
        loss: mean loss since the report before.
        samples_per_second: over all ranks.
        began: when `first_step` was reported, by the writer's clock.
        told: time of the last report, by the writer's clock.
    """

    step: int = 0
    first_step: int = 0
    total_steps: int = 0
    loss: float | None = None
    samples_per_second: float | None = None
    began: float | None = None
    told: float | None = None

    def after(self, record: dict[str, Any]) -> Progress:
        """Return the progress once a record of `metrics.jsonl` is known."""
        kind, told = record.get("kind"), record.get("time")
        if kind == "start":
            first = int(record.get("first_step") or 0)
            return Progress(first, first, int(record.get("total_steps") or 0), began=told, told=told)
        if kind != "train":
            return self
        return replace(
            self,
            step=int(record.get("step") or 0),
            loss=record.get("loss"),
            samples_per_second=record.get("samples_per_second"),
            told=told,
        )

    @property
    def seconds_left(self) -> float | None:
        """Return the time left at the mean pace since `start`, validation and saving included."""
        if self.began is None or self.told is None or self.step <= self.first_step:
            return None
        return (self.told - self.began) / (self.step - self.first_step) * (self.total_steps - self.step)

    @property
    def figures(self) -> str:
        """Return samples/s and loss, where known."""
        parts = []
        if self.samples_per_second is not None:
            parts.append(f"{self.samples_per_second:,.0f} samples/s")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        return ", ".join(parts)

    def line(self, *, ended: bool = False) -> str:
        """Return the progress as one line of text, without the time left where the run has ended."""
        share = f" ({self.step / self.total_steps:.0%})" if self.total_steps else ""
        left = None if ended else self.seconds_left
        parts = [f"step {self.step}/{self.total_steps or '?'}{share}", self.figures]
        parts.append("" if left is None else f"ETA {tqdm.format_interval(left)}")
        return ", ".join(part for part in parts if part)


class _Bar:
    """A bar on a terminal; made at the first record, so that what is said before stays readable."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[Any] | None = None

    def update(self, progress: Progress) -> None:
        if not progress.total_steps:
            return
        if self._bar is None:
            self._bar = tqdm(
                total=progress.total_steps, initial=progress.first_step, file=self._stream,
                unit="step", desc="train", dynamic_ncols=True, mininterval=0,
            )  # fmt: skip
        self._bar.total = progress.total_steps
        self._bar.set_postfix_str(progress.figures, refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)

    def close(self, progress: Progress) -> None:
        self.update(progress)
        if self._bar is not None:
            self._bar.close()


class _Lines:
    """Lines for a log file or a notebook."""

    def __init__(self, stream: TextIO, every_seconds: float) -> None:
        self._stream, self._every = stream, every_seconds
        self._next = 0.0
        self._said_step = 0

    def update(self, progress: Progress) -> None:
        if progress.step > progress.first_step and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._tell(progress.step, progress.line())

    def say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self, progress: Progress) -> None:
        if progress.step > progress.first_step:
            self._tell(progress.step, progress.line(ended=True))

    def _tell(self, step: int, text: str) -> None:
        if step != self._said_step:
            self._said_step = step
            self.say(text)


class _Follower:
    """Reads the lines that are appended to a file, in a thread."""

    def __init__(self, path: Path, view: _Bar | _Lines) -> None:
        self._path, self._view = path, view
        self._progress = Progress()
        # A resumed run has records already; they are no news.
        self._offset, self._known, self._rest = 0, b"", b""
        if path.exists():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _KNOWN_BYTES))
                self._known = file.read()
                self._offset = file.tell()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="shardrec-progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._done.set()
        self._thread.join()
        with suppress(OSError):
            self._read()
            self._view.close(self._progress)

    def _follow(self) -> None:
        with suppress(OSError):  # Nobody reads the stream any more; the run goes on all the same.
            while not self._done.wait(_POLL_SECONDS):
                self._read()
                self._view.update(self._progress)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset - len(self._known))
                # A resumed run rewrites the file without the steps that it does again; by the next look it
                # may be longer than it was.
                rewritten = file.read(len(self._known)) != self._known
                if rewritten:
                    file.seek(0)
                    self._offset, self._known, self._rest = 0, b"", b""
                added = file.read()
        except OSError:
            return
        self._offset += len(added)
        self._known = (self._known + added)[-_KNOWN_BYTES:]
        *lines, self._rest = (self._rest + added).split(b"\n")
        records = [record for line in lines if (record := _parsed(line)) is not None]
        for record in _news(records) if rewritten else records:
            self._progress = self._progress.after(record)
            if record.get("kind") == "evaluation":
                self._view.say(_evaluation_line(record))
            elif record.get("kind") == "pretrained":
                self._view.say(_pretrained_line(record))
            elif record.get("kind") == "guard":
                self._view.say(_guard_lines(record))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:  # The end of a line whose beginning was rewritten.
        return None
    return record if isinstance(record, dict) else None


def _news(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records since the newest `start`."""
    starts = [number for number, record in enumerate(records) if record.get("kind") == "start"]
    return records[starts[-1] :] if starts else []


def _pretrained_line(record: dict[str, Any]) -> str:
    found, ids, unknown = (record.get(name) or 0 for name in ("found", "ids", "unknown"))
    text = f"table {record.get('table')}: {found:,} of {ids:,} ids start from vectors"
    return f"{text}, {unknown:,} of the file are unknown" if unknown else text


def _evaluation_line(record: dict[str, Any]) -> str:
    figures = [
        f"{name} {value:.4f}"
        for name, value in record.items()
        if name.rpartition("/")[2] not in _HIDDEN
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ]
    return f"step {record.get('step')}, validation: {', '.join(figures)}"


def _guard_lines(record: dict[str, Any]) -> str:
    lines = [f"step {record.get('step')}, guard: {record.get('what')} ({record.get('code')})"]
    lines += [f"  likely cause: {cause}" for cause in record.get("causes", ())]
    lines += [f"  {number}) {fix}" for number, fix in enumerate(record.get("fixes", ()), start=1)]
    return "\n".join(lines)
