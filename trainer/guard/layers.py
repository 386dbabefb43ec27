"""Whether gradients reach the layers of the dense part, by those of the newest step."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from sharding.dense import local_part
from trainer.guard.findings import Finding, listed

DEAD_SHARE = 0.9
# Narrower layers may well have all units but one off; a batch of few rows turns on few.
_LEAST_UNITS, _LEAST_ROWS = 8, 64
_FIGURES = 2
_WRAPPERS = re.compile(r"\b(_dmp_wrapped_module|module|model)\.")


class LayerWatch:
    """Counts the units of linear layers whose weights have no gradient.

    Copies of a layer count as often as there are copies, which no share shows.

    Args:
        model: the sharded one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = {
            _WRAPPERS.sub("", name): module.weight
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module.weight.requires_grad
        }
        self._left_out: set[str] = set()

    def leave_out_unreached(self) -> None:
        """Judge no layer any more that the newest step's gradients do not reach.

        For runs with a task of weight 0, after their first step: what that task alone uses never learns, as
        was asked for.
        """
        self._left_out = {
            name
            for name, weight in self._layers.items()
            for gradient in [_local(weight.grad)]
            if gradient is not None and not bool(gradient.any())
        }

    def figures(self) -> Tensor:
        """Return units without gradient and units of this rank, one layer after another, float64 on CPU.

        A layer that is left out, or whose gradient is not there or not finite, counts no units.
        """
        counts = torch.zeros((len(self._layers), _FIGURES), dtype=torch.float64)
        for number, (name, weight) in enumerate(self._layers.items()):
            gradient = _local(weight.grad)
            if name in self._left_out and gradient is not None and bool(gradient.any()):
                self._left_out.discard(name)  # Rows of its task have come since.
            if name in self._left_out:
                gradient = None
            if gradient is not None and bool(torch.isfinite(gradient.sum())):
                dead_C = (gradient == 0).all(dim=1)
                counts[number] = torch.stack(
                    [dead_C.sum(), torch.tensor(len(dead_C), device=dead_C.device)]
                ).cpu()
        return counts.flatten()

    def findings(self, figures: Tensor, rows: float, step: int) -> list[Finding]:
        """Return the layers that gradients do not reach.

        Args:
            figures: of all ranks together.
            rows: of the newest step with a weight above 0, all ranks together.
            step: steps done.
        """
        dead, mostly = [], {}
        for name, (off, units) in zip(self._layers, figures.reshape(-1, _FIGURES).tolist(), strict=True):
            share = off / units if units else 0.0
            if share == 1:
                dead.append(name)
            elif share >= DEAD_SHARE and units >= _LEAST_UNITS:
                mostly[name] = f"{name} ({share:.0%})"
        if rows < _LEAST_ROWS:
            return []
        of = f"of {rows:,.0f} rows"
        found = []
        if dead:
            what = f"layers get no gradient from any {of}: {listed(dead)}"
            found.append(Finding("layer_dead", step, what, tuple(dead)))
        if mostly:
            what = f"most units of layers get no gradient from any {of}: {listed(list(mostly.values()))}"
            found.append(Finding("units_dead", step, what, tuple(mostly)))
        return found

    def not_finite(self) -> list[str]:
        """Return the layers whose newest gradient on this rank is no finite number."""
        found = []
        for name, weight in self._layers.items():
            gradient = _local(weight.grad)
            if gradient is not None and not bool(torch.isfinite(gradient.sum())):
                found.append(name)
        return found


def _local(gradient: Tensor | None) -> Tensor | None:
    local = None if gradient is None else local_part(gradient)
    return local if local is not None and local.numel() else None
