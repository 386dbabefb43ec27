"""What differs between the figures of two clusters, number by number: lines of `plan --compare`."""

from __future__ import annotations

from collections.abc import Iterator

from sharding.hardware import Hardware
from sharding.measured import Measured
from sharding.units import counted


def hardware_differences(old: Hardware, new: Hardware) -> list[str]:
    """Return one line for each figure that differs, `old -> new`."""
    before, after = _figures(old), _figures(new)
    if old.measured is None or new.measured is None:  # Then one line says so, and no number has another one.
        before, after = ({key: of[key] for key in before if key in after} for of in (before, after))
    keys = [*before, *(key for key in after if key not in before)]
    pairs = [(key, before.get(key), after.get(key)) for key in keys]
    return [f"hardware.{key}: {_text(a)} -> {_text(b)}" for key, a, b in pairs if a != b]


def _figures(hardware: Hardware) -> dict[str, object]:
    """Return all figures by what they are of, in the words of the catalogue."""
    plain = {key: value for key, value in vars(hardware).items() if key != "measured"}
    measured = hardware.measured
    if measured is None:
        return {**plain, "measured": None}
    return {**plain, "measured": measured.text, **dict(_numbers(measured))}


def _numbers(measured: Measured) -> Iterator[tuple[str, object]]:
    for key in ("step_overhead_ms", "table_overhead_ms", "fp32_tflops", "bf16_tflops"):
        yield f"measured.{key}", getattr(measured, key)
    for rate in measured.lookups:
        case = f"measured.lookups of {rate.dim} columns in {rate.table_mib:g} MiB"
        for key in ("forward_gbps", "forward_bag_ns", "backward_gbps", "backward_bag_ns"):
            yield f"{case}: {key}", getattr(rate, key)
    for exchange in measured.collectives:
        where = f"{counted(exchange.ranks, 'rank')} on {counted(exchange.nodes, 'node')}"
        case = f"measured.collectives, {exchange.kind} of {where}"
        yield f"{case}: latency_ms", exchange.latency_ms
        yield f"{case}: gbps", exchange.gbps


def _text(value: object) -> str:
    return "none" if value is None else f"{value}"
