"""The curves of a run, each with its numbers in words for those who cannot see it."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from markupsafe import Markup

from trainer.config.metrics import metric_of, telling_names
from trainer.reporting import formats
from trainer.reporting.charts import Line, line_chart, smoothed
from trainer.reporting.figures import Chart, Key
from trainer.reporting.history import Curve, History
from trainer.reporting.metric_columns import names_of_rows, shown, title_of
from trainer.reporting.tables import Table, limited, make_table

MAX_EVALUATIONS = 200


def charts(history: History) -> tuple[Chart, ...]:
    """Return the charts for which there is at least one point."""
    drawn = (
        _loss_chart(history),
        *(_metric_chart(history, name) for name in _charted(history)),
        _calibration_chart(history),
        _learning_rate_chart(history),
        _speed_chart(history),
    )
    return tuple(chart for chart in drawn if chart is not None)


def evaluation_table(history: History, best_step: object) -> Table | None:
    """Return the evaluations of the validation split, the best one named."""
    if not history.evaluations:
        return None
    best = formats.finite_number(best_step)
    names = [name for name in names_of_rows(history.evaluations) if name != "base_rate"]
    names += [name for name in _charted(history) if name not in names]
    rows = [
        (
            f"{record['step']:,}" + (" (best)" if best is not None and record["step"] == best else ""),
            formats.count(record.get("epoch")),
            *(shown(name, record.get(name)) for name in names),
        )
        for record in history.evaluations
    ]
    # The newest evaluations are the ones to keep.
    kept, note = limited(rows[::-1], MAX_EVALUATIONS, "evaluations, newest first")
    titles = ("Step", "Epochs done", *map(title_of, names))
    ordered = kept if note else kept[::-1]
    return make_table("Evaluations of the validation split", titles, ordered, text=(), note=note)


def constant_learning_rate(history: History) -> float | None:
    """Return the dense optimizer's learning rate where it is the same at every logged step, else None."""
    rates = set(history.train_curve("learning_rate").values)
    return rates.pop() if len(rates) == 1 else None


def _loss_chart(history: History) -> Chart | None:
    raw, valid = history.train_curve("loss"), history.evaluation_curve("log_loss")
    if not len(raw) and not len(valid):
        return None
    smooth = smoothed(raw)
    keys, words = [], []
    if len(raw):
        # Fewer points than three are not smoothed.
        keys = [Key(1, "training, smoothed"), Key(1, "as logged", faint=True)]
        keys = keys if len(raw) > 2 else [Key(1, "training")]
        words.append(_in_words("training loss (smoothed)", smooth, formats.decimal))
    if len(valid):
        keys.append(Key(2, "validation"))
        words.append(_in_words("validation log loss", valid, formats.decimal))
    bad = history.steps_without_finite_loss()
    words += [f"Logged steps whose loss was not finite: {bad:,}."] if bad else []
    name, last = ("training", smooth) if len(smooth) else ("validation", valid)
    lines = [Line(raw, 1, faint=len(raw) > 2), Line(smooth, 1), Line(valid, 2, marked=True)]
    svg = _drawn(history, lines, "loss")
    title = "Log loss" if len(valid) or not history.evaluations else "Loss"
    return Chart(title, f"{name} {formats.decimal(last.values[-1])}", svg, " ".join(words), tuple(keys))


def _charted(history: History) -> list[str]:
    """Return the metrics that have a chart of their own beside log loss and calibration."""
    evaluated = {name: value for record in history.evaluations for name, value in record.items()}
    return [name for name in telling_names(evaluated) if name != "log_loss"]


def _metric_chart(history: History, name: str) -> Chart | None:
    curve = history.evaluation_curve(name)
    if not len(curve):
        return None
    title = f"Validation {title_of(name)}"
    best = (max if metric_of(name).better == "high" else min)(curve.values)
    step = curve.steps[curve.values.index(best)]
    words = f"{_in_words(title, curve, formats.decimal)} Best {formats.decimal(best)} at step {step:,}."
    svg = _drawn(history, [Line(curve, 2, marked=True)], name.partition("@")[0].replace("/", ""))
    return Chart(title, f"best {formats.decimal(best)}", svg, words)


def _calibration_chart(history: History) -> Chart | None:
    curve = history.evaluation_curve("calibration")
    if not len(curve):
        return None
    svg = _drawn(history, [Line(curve, 2, marked=True)], "calibration", reference=1.0)
    words = _in_words("Validation calibration", curve, lambda value: formats.decimal(value, 3))
    return Chart("Validation calibration", f"last {formats.decimal(curve.values[-1], 3)}", svg, words)


def _learning_rate_chart(history: History) -> Chart | None:
    curve = history.train_curve("learning_rate")
    if not len(curve) or constant_learning_rate(history) is not None:
        return None
    svg = _drawn(history, [Line(curve, 1)], "rate")
    words = _in_words("Dense learning rate", curve, formats.general)
    return Chart("Dense learning rate", f"peak {formats.general(max(curve.values))}", svg, words)


def _speed_chart(history: History) -> Chart | None:
    curve = history.train_curve("samples_per_second")
    if not len(curve):
        return None
    lines = (
        [Line(curve, 1)]
        if len(curve) < 3
        else [Line(curve, 1, faint=True), Line(smoothed(curve, history.resumed_at), 1)]
    )
    what = "Samples per second of all ranks since the log before, without validation and checkpoints"
    words = _in_words(what, curve, formats.count)
    middle = formats.count(median(curve.values))
    return Chart("Samples/s", f"median {middle}", _drawn(history, lines, "speed"), words)


def _drawn(history: History, lines: list[Line], name: str, reference: float | None = None) -> Markup:
    return line_chart(
        lines, name=name, last_step=history.last_step, resumed_at=history.resumed_at, reference=reference
    )


def _in_words(what: str, curve: Curve, show: Callable[[float], str]) -> str:
    first, last = curve.values[0], curve.values[-1]
    what = what[:1].upper() + what[1:]
    if len(curve) == 1:
        return f"{what}: {show(first)} at step {curve.steps[0]:,}, the only point."
    return (
        f"{what}: from {show(first)} at step {curve.steps[0]:,} to {show(last)} at step {curve.steps[-1]:,}, "
        f"between {show(min(curve.values))} and {show(max(curve.values))}."
    )
