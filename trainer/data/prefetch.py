"""Makes items ahead of their use in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from trainer.batch import Batch

Item = TypeVar("Item")


def prefetched(batches: Iterator[Batch], depth: int, pin_memory: bool = False) -> Iterator[Batch]:
    """Yield batches that a background thread makes ahead.

    An error of the thread is raised here, at the place of the batch that failed, with the thread's traceback.
    Closing the generator (or leaving it to the garbage collector) stops and joins the thread and closes
    `batches`.

    Args:
        batches: where they come from; only the thread touches it from now on.
        depth: batches made ahead; 0 makes each one when it is asked for, without a thread.
        pin_memory: copy each batch to page-locked memory, for fast copies to a GPU.
    """
    source = _pinned(batches) if pin_memory else batches
    return source if depth == 0 else in_background(source, depth)


def in_background(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Yield items that a background thread makes ahead, at most `depth` of them."""
    worker = _Worker(items, depth)
    worker.thread.start()
    try:
        while True:
            result = worker.results.get()
            worker.slots.release()
            if isinstance(result, _End):
                if result.error is not None:
                    raise result.error
                return
            yield result
            del result  # the consumer alone keeps the item alive
    finally:
        worker.stop()


def when_stopped(call: Callable[[], None]) -> None:
    """Have a function called when the background thread that this is called in is told to stop.

    The thread is waited for, so that whatever it waits for itself must end; elsewhere, nothing is called.
    """
    worker: _Worker[object] | None = getattr(_THREAD, "worker", None)
    if worker is not None:
        worker.when_stopped(call)


def _pinned(batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        for batch in batches:
            yield batch.pin_memory()
    finally:
        _close(batches)


def _close(items: Iterator[Item]) -> None:
    if isinstance(items, Generator):
        items.close()


@dataclass
class _End:
    error: BaseException | None


class _Worker(Generic[Item]):
    """The thread; a slot is taken before an item is made, so that never more than `depth` wait."""

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self.results: queue.SimpleQueue[Item | _End] = queue.SimpleQueue()
        self.slots = threading.Semaphore(depth)
        self._items = items
        self._stopped = threading.Event()
        self._calls: list[Callable[[], None]] = []
        when_stopped(self.tell)  # made in the thread of another one, which waits for this
        # Daemon: a program that ends without closing the generator must not hang on a full queue.
        self.thread = threading.Thread(target=self._run, name="shardrec-prefetch", daemon=True)

    def stop(self) -> None:
        self.tell()
        self.thread.join()

    def tell(self) -> None:
        self._stopped.set()
        self.slots.release()
        for call in self._calls:
            call()

    def when_stopped(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        if self._stopped.is_set():
            call()

    def _run(self) -> None:
        _THREAD.worker = self
        error: BaseException | None = None
        try:
            while self.slots.acquire() and not self._stopped.is_set():
                item = next(self._items, _DONE)
                if item is _DONE:
                    break
                self.results.put(cast(Item, item))
                del item  # else this frame keeps it until the next one is made
        except BaseException as caught:
            error = caught
        finally:
            try:
                _close(self._items)
            except BaseException as caught:
                error = error or caught
            self.results.put(_End(error))


_DONE = object()
_THREAD = threading.local()
