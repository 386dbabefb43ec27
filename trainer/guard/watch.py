"""The guard of one rank: asks every watch at its time and keeps what they find.

What it tells is the same on all ranks and at every world size, for the watches see numbers that all ranks
share. It looks at the batches of the first steps, every `learning_steps` steps at tables and layers, and for
the rest at what is logged and evaluated anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sharding.hosts import RankContext
from trainer.assembly import Assembly
from trainer.batch import Batch
from trainer.config import RunConfig
from trainer.errors import GuardError
from trainer.guard.evaluations import GapWatch
from trainer.guard.findings import Finding, listed
from trainer.guard.inputs import FirstBatches
from trainer.guard.labels import label_findings
from trainer.guard.layers import LayerWatch
from trainer.guard.losses import LossWatch
from trainer.guard.scope import Scope
from trainer.guard.tables import LEAST_STEPS, TableWatch
from trainer.schedule import first_step_at_rate_0
from trainer.schema import Manifest

FIRST_STEPS = 8
"""Steps of a launch whose batches are looked at."""
Tell = Callable[..., None]


class Guard:
    """Tells, with `train.guard`, that a run does not learn; with `action: off` it does nothing.

    Args:
        run: the config.
        manifest: of the data set.
        assembly: what is trained.
        context: this rank among the others.
        total_steps: of the run.
        step: steps done.
        state: what `state` was when the checkpoint was saved that the run goes on from; else empty.
    """

    def __init__(
        self,
        run: RunConfig,
        manifest: Manifest,
        assembly: Assembly,
        context: RankContext,
        total_steps: int,
        step: int,
        state: Mapping[str, Any],
    ) -> None:
        self._config, self._manifest = run.train.guard, manifest
        self._on = self._config.action != "off"
        self._total, self._device = total_steps, context.device
        self._tell: Tell = lambda *_, **__: None
        self.findings: list[dict[str, Any]] = list(state.get("findings", []))
        if not self._on:
            return
        warmup = run.train.schedule.warmup_steps
        self._rate_0_from = first_step_at_rate_0(run.train.schedule)
        self._judged_from = min(warmup + self._config.learning_steps, total_steps)
        task = assembly.task.module
        self._scope = Scope.of(run, manifest, task)
        self._losses = LossWatch(
            self._scope.prior, warmup, self._config.learning_steps, total_steps, state.get("losses"), step
        )
        self._gap = GapWatch(self._config.gap_evaluations, **state.get("gap", {}))
        raw = frozenset(name for table in assembly.tables if table.ids for name in table.features)
        self._first: FirstBatches | None = FirstBatches(
            manifest.spec, manifest.statistics, raw, context.device, self._scope.binary
        )
        self._seen = 0
        self._tables = TableWatch(assembly.tables, assembly.task, context.device, state.get("table_sizes"))
        self._layers = LayerWatch(assembly.task)
        self._has_unlearnt = any(head.weight == 0 for head in task.loss.heads)
        self._begins = True
        self._rows = 0

    @property
    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a resumed run is judged as an unbroken one."""
        if not self._on:
            return {"findings": self.findings} if self.findings else {}
        return {
            "findings": self.findings,
            "losses": self._losses.state,
            "gap": self._gap.state,
            "table_sizes": self._tables.first_sizes,
        }

    @property
    def halts(self) -> bool:
        """Return whether the run should end here."""
        return self._config.action == "stop" and self._grave() is not None

    def error(self, checkpoint: Path | None) -> GuardError:
        """Return why the run ends.

        Args:
            checkpoint: that it can go on from; None before the first step.
        """
        found = self._grave()
        assert found is not None
        others = [f"{other['code']}: {other['what']}" for other in self._accepted() if other is not found]
        return GuardError(
            found["what"],
            where=f"{found['code']}, step {found['step']:,}"
            + (f", saved as {checkpoint}" if checkpoint else ""),
            fixes=[*found["fixes"], f"go on all the same: --set 'train.guard.ignore={self._accepting()}'"],
            also=[*(f"likely cause: {cause}" for cause in found["causes"]), *others],
        )

    def begin(self, tell: Tell, step: int) -> None:
        """Look at what the manifest tells.

        Args:
            tell: `Recorder.write`.
            step: steps done.
        """
        self._tell = tell
        if not self._on:
            return
        scope = self._scope
        # What learns from rows of users needs no labels.
        if not (scope.own_loss and self._manifest.user_row_splits):
            self._add(label_findings(self._manifest, step, scope.same_labels, scope.learnt, scope.own_loss))

    def see(self, batch: Batch) -> None:
        """Look at a training batch of this rank before its ids become rows, on the CPU."""
        if not self._on:
            return
        self._rows = int((batch.weights_B > 0).sum())
        if self._first is not None:
            self._first.add(batch)
            self._seen += 1

    def looked_up(self, batch: Batch, step: int) -> None:
        """Look at a training batch on its device, with rows for ids, before the model does.

        Args:
            batch: of this rank.
            step: steps done before it.
        """
        if self._on and self._begins:
            self._tables.begin(batch.sparse, step)
            self._begins = False

    def logged(self, step: int, loss: float, mean_labels_T: Sequence[float]) -> None:
        """Take a logged loss, see `LossWatch.logged`."""
        if self._on:
            self._add(self._losses.logged(step, loss, mean_labels_T))

    def evaluated(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of the validation split."""
        if not self._on:
            return
        if step >= self._judged_from:
            self._add(self._scope.findings(metrics, step))
        train, name = self._losses.since_evaluation(), self._scope.gap
        if name is not None and metrics.get(name) is not None:
            title = "RMSE" if name == "rmse" else "log loss"
            self._add(self._gap.evaluated(step, train, float(metrics[name]), title))

    def ended(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Judge a run that early stopping ends as one after its last step; `look` follows.

        Args:
            step: steps done.
            metrics: of the evaluation whose checkpoint is used.
        """
        if not self._on:
            return
        self._add(self._losses.ended(step))
        if step < self._judged_from:
            self._add(self._scope.findings(metrics, step))
        self._total = step

    def look(self, step: int) -> None:
        """Look at the first batches, at tables and at layers where it is time; every rank calls it.

        Args:
            step: steps done; gradients of the last one are still there.
        """
        if not self._on:
            return
        if self._has_unlearnt and self._rows:
            self._layers.leave_out_unreached()
            self._has_unlearnt = False
        if self._first is not None and (self._seen >= FIRST_STEPS or step >= self._total):
            first, self._first = self._first, None
            self._add(first.findings(step))
        if self._looks(step):
            tables, layers = self._tables.figures(), self._layers.figures()
            rows = torch.tensor([self._rows], dtype=torch.float64)
            figures = torch.cat([rows, tables, layers]).to(self._device)
            dist.all_reduce(figures)
            of_rows, of_tables, of_layers = torch.tensor_split(figures.cpu(), (1, 1 + len(tables)))
            at_rate_0 = self._rate_0_from is not None and step > self._rate_0_from
            self._add(self._tables.findings(of_tables, step, at_rate_0=at_rate_0))
            self._add(self._layers.findings(of_layers, float(of_rows), step))
            self._begins = True

    def causes_of_nan(self, step: int) -> list[str]:
        """Return what explains numbers that are not finite, one line each; every rank calls it."""
        if not self._on:
            return []
        if self._first is not None and self._seen:
            first, self._first = self._first, None
            self._add(first.findings(step))
        lines = [f"guard: {found['what']}" for found in self._accepted()]
        broken = {"vectors of": self._tables.not_finite(), "gradients of": self._layers.not_finite()}
        return lines + [f"not finite: {what} {listed(names)}" for what, names in broken.items() if names]

    def _looks(self, step: int) -> bool:
        """Return whether tables and layers are looked at after a step."""
        due = step >= self._total or step % self._config.learning_steps == 0
        return due and step - self._tables.step >= LEAST_STEPS

    def _add(self, findings: Sequence[Finding]) -> None:
        """Tell what has not been told before."""
        known = {(told["code"], subject) for told in self.findings for subject in told["subjects"] or [""]}
        for found in findings:
            if found.code in self._config.ignore:
                continue
            if all((found.code, subject) in known for subject in found.subjects or ("",)):
                continue
            values = found.as_json()
            self.findings.append(values)
            self._tell("guard", found.step, **{key: value for key, value in values.items() if key != "step"})

    def _accepted(self) -> list[dict[str, Any]]:
        return [found for found in self.findings if found["code"] not in self._config.ignore]

    def _accepting(self) -> str:
        """Return the value of `train.guard.ignore` under which the run goes on."""
        grave = {found["code"] for found in self._accepted() if found["level"] == "grave"}
        return f"[{', '.join(sorted({*self._config.ignore, *grave}))}]"

    def _grave(self) -> dict[str, Any] | None:
        """Return the first grave finding."""
        return next((found for found in self._accepted() if found["level"] == "grave"), None)
