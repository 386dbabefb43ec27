"""Whether the local files of a run are there: looked for before Spark starts, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.preparation.files import existing_here, path_here
from trainer.config import RunConfig, SourceConfig
from trainer.config.source import absolute_path


def check_places(run: RunConfig, *, local: bool, history: Sequence[RunConfig] = ()) -> None:
    """Check that the files of this machine are there, which a run names as its source or beside it.

    Args:
        run: names the source, side tables, vectors and files of negatives.
        local: whether plain paths are of this machine; else only `file:` and such are looked for.
        history: name the raw rows of earlier days.

    Raises:
        DataError: one is not there, a pattern matches nothing, or it may not be read.
    """
    found = [(run.data.root, where, path) for where, path in _named(run)]
    found += [
        (each.data.root, "--history-input", path) for each in history for path in _paths(each.data.source)
    ]
    for root, where, path in found:
        own = path_here(absolute_path(path, root), local=local, elsewhere=False)
        if own is not None:
            existing_here(own, where)


def _named(run: RunConfig) -> Iterator[tuple[str, str]]:
    """Return the key and path of everything that a run reads."""
    sources = {"data.source": run.data.source}
    sources |= {f"data.joins.{n}.source": join.source for n, join in enumerate(run.data.joins)}
    for n, group in enumerate(run.features.dense):
        if group.vectors is not None:
            sources[f"features.dense.{n}.vectors.source"] = group.vectors.source
    for where, source in sources.items():
        yield from ((f"{where}.path", path) for path in _paths(source))
    for name in ("train", "evaluation") if run.data.negatives is not None else ():
        sampling = getattr(run.data.negatives, name)
        if sampling is not None and sampling.file is not None:
            yield f"data.negatives.{name}.file.path", sampling.file.path


def _paths(source: SourceConfig | None) -> list[str]:
    return [] if source is None else source.paths()
