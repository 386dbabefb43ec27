"""The training loop of one rank."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sharding.hosts import RankContext
from sharding.plan import Plan
from trainer.assembly import Assembly, assemble, open_split
from trainer.batch import Batch
from trainer.checkpoint import Progress, checkpoint_path, newest_progress, save_checkpoint
from trainer.data import prefetched
from trainer.denormals import denormals_flushed
from trainer.errors import ConfigError, DataError, TrainingError
from trainer.guard import Guard
from trainer.improvement import follow_plateau, update_best, use_metric
from trainer.item_counts import load_item_counts
from trainer.item_features import load_item_features
from trainer.measuring import SplitMeasure, rows_skipped
from trainer.pipeline import StepParts, make_steps
from trainer.pretrained import load_pretrained
from trainer.pretrained_parts import load_pretrained_parts
from trainer.recording import Recorder
from trainer.run_folder import RunFolder, read_json, write_json
from trainer.schedule import learning_rate_factor, steps_of_run
from trainer.seen_pairs import load_seen_pairs
from trainer.tasks import begin_parts
from trainer.usage import Meter, all_finite, peak_memory_gib


def train_rank(run_folder: Path, context: RankContext) -> str:
    """Train the run of a folder on this rank, from its newest checkpoint if it has one.

    Args:
        run_folder: holds config, manifest and plan.
        context: this rank among the others.

    Returns:
        `"finished"`, or `"stopped"` when someone asked the run to stop.
    """
    with denormals_flushed():
        return _Training(RunFolder(run_folder), context).run()


class _Training:
    """One rank's training: what it is made of, and its place."""

    def __init__(self, folder: RunFolder, context: RankContext) -> None:
        self.folder, self.context = folder, context
        self.config, self.manifest = folder.config(), folder.manifest()
        self.plan = Plan.load(folder.plan_file)
        self.reader = open_split(
            self.config, self.manifest, folder.dataset(), "train", context, training=True
        )
        self._check_micro_batches()
        self.validation = self._open_validation()
        self.assembly: Assembly = assemble(self.config, self.manifest, self.plan, context)
        load_item_features(self.assembly.task, folder.dataset(), context.device)
        load_item_counts(self.assembly.task, self.config, self.manifest, folder.dataset(), context)
        load_seen_pairs(self.assembly.task, self.config, self.manifest, folder.dataset(), context)
        self.pretrained: dict[str, dict[str, int]] = {}
        self.progress = self._restore()
        self.assembly.optimizers.steps = self.progress.step + self.progress.earlier_steps
        self.total_steps = steps_of_run(self.config.train, self.reader.steps_per_epoch)
        self.guard = Guard(
            self.config,
            self.manifest,
            self.assembly,
            context,
            self.total_steps,
            self.progress.step,
            self.progress.guard,
        )
        self.first_step = self.saved_step = self.synced_step = self.progress.step
        self.skipped_before = self.progress.rows_skipped
        self.meter = Meter(context.device)
        parts = StepParts(self._begin_step, self._looked_up, self._loss, self._end_step)
        ids_change = bool(self.assembly.ids.map.tables)
        self.steps = make_steps(
            parts, self.config.train, self.assembly.task, context.device, ids_change=ids_change
        )
        torch.set_float32_matmul_precision("high" if self.config.train.precision == "tf32" else "highest")
        self.id_figures: dict[str, dict[str, float]] = {}

    def run(self) -> str:
        """Train to the end and write the result."""
        first = self.context.rank == 0
        if first and not (self._finished() and self._told_as_finished()):
            self.folder.forget_results()
        with Recorder(
            self.folder,
            enabled=first,
            first_step=self.first_step,
            total_steps=self.total_steps,
            world_size=self.context.world_size,
            batch_size_per_rank=self.config.train.global_batch_size // self.context.world_size,
        ) as self.recorder:
            for table, figures in self.pretrained.items():
                self.recorder.write("pretrained", 0, table=table, **figures)
            self.guard.begin(self.recorder.write, self.progress.step)
            self._halt_by_guard()
            # Reading the checkpoint and opening TensorBoard is no training time.
            self.meter.resume()
            stopped = False
            while not (stopped or self._finished()):
                stopped = self._epoch()
            if not stopped:
                self._end()
        self._write_result("interrupted" if stopped else "finished")
        return "stopped" if stopped else "finished"

    def _check_micro_batches(self) -> None:
        rows, parts = (
            self.config.train.global_batch_size // self.context.world_size,
            self.config.train.micro_batches,
        )
        if rows % parts:
            raise ConfigError(
                "the micro-batches must divide the rows of a rank",
                where="train.micro_batches",
                got=f"{parts} parts of {rows} rows",
                allowed=[n for n in range(1, min(rows, 64) + 1) if rows % n == 0],
            )

    def _finished(self) -> bool:
        return self.progress.finished or self.progress.step >= self.total_steps

    def _told_as_finished(self) -> bool:
        """Return whether an earlier launch left the result of a finished run; it stays as it is."""
        file = self.folder.result_file
        return file.exists() and read_json(file)["stopped"] == "finished"

    def _epoch(self) -> bool:
        """Train on what is left of the epoch; return whether a stop was asked for."""
        progress, pin = self.progress, self.context.device.type == "cuda"
        batches = self.reader.batches(progress.epoch, progress.step_in_epoch)
        for _ in self.steps.over(prefetched(batches, self.config.data.prefetch_batches, pin)):
            progress.step += 1
            progress.step_in_epoch += 1
            if progress.step_in_epoch == self.reader.steps_per_epoch:
                progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
            if self._after_step():
                return True
            if self._finished():
                break
        return False

    def _begin_step(self, batch: Batch) -> None:
        train, step = self.config.train, self.progress.step
        # Dropout must depend neither on where a killed run was taken up again nor on the rank.
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        self.factor = learning_rate_factor(train.schedule, step, self.total_steps)
        self.factor *= self.progress.plateau_factor
        self.assembly.optimizers.begin_step(self.factor, train.micro_batches)
        self.guard.see(batch)

    def _looked_up(self, batch: Batch) -> Batch:
        batch = self.assembly.ids.train(batch.to(self.context.device, non_blocking=True))
        self.guard.looked_up(batch, self.progress.step)
        begin_parts(self.assembly.task, batch, self.config.train.micro_batches)
        return batch

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch on the device, and what of it is told."""
        bf16 = self.config.train.precision == "bf16"
        with torch.autocast(self.context.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss, (told, *_) = self.assembly.task(batch)
        return loss, told

    def _end_step(self, batch: Batch, losses: list[Tensor]) -> None:
        self.assembly.optimizers.end_step(self.config.train.max_gradient_norm)
        if self.assembly.average is not None:
            self.assembly.average.update(self.progress.step)
        self.meter.add(torch.stack(losses).mean(), batch.labels_BT, batch.weights_B, batch.rows_B)

    def _after_step(self) -> bool:
        """Log, evaluate and save where due; return whether to stop by request."""
        progress, train = self.progress, self.config.train
        end_of_epoch = progress.step_in_epoch == 0
        last = progress.step >= self.total_steps
        if progress.step % train.table_sync_every_steps == 0:
            self._sync_tables()
        # The last step too, before it is saved: a run that goes on with more steps knows its best by that.
        evaluate = self.validation is not None and (
            last or self._due(train.evaluate_every_steps, end_of_epoch)
        )
        save = self._due(train.checkpoint_every_steps, end_of_epoch)
        log = progress.step % train.log_every_steps == 0
        stop = self._log() if log or evaluate or save or last else False
        improved = self._evaluate() if evaluate else False
        self.guard.look(progress.step)
        if stop or improved or save:
            self._save()
        self._halt_by_guard()
        return stop and not self._finished()

    def _sync_tables(self) -> None:
        """Make the copies of the tables one, unless this step has done so."""
        if self.synced_step != self.progress.step:
            self.assembly.sync_tables()
            self.synced_step = self.progress.step

    def _due(self, every: int | None, end_of_epoch: bool) -> bool:
        return end_of_epoch if every is None else self.progress.step % every == 0

    def _log(self) -> bool:
        """Write the mean loss since the last log; return whether any rank was asked to stop."""
        loss, samples_per_second, stop = self.meter.read(self.context.stop_requested())
        step = self.progress.step
        if not math.isfinite(loss):
            raise self._diverged("the loss is not a finite number", loss)
        self.guard.logged(step, loss, self.meter.mean_labels_T)
        rate = self.config.train.dense_optimizer.learning_rate * self.factor
        skipped = self.progress.rows_skipped = self.skipped_before + self.meter.rows_skipped
        if skipped and not self.meter.rows:
            raise DataError(
                f"every row since step {self.first_step} lies in damaged row groups",
                where=str(self.folder.dataset()),
                got=f"{skipped:,} rows skipped",
                fixes=["prepare the data set again"],
            )
        told: dict[str, Any] = {"rows_skipped": skipped} if skipped else {}
        self.recorder.write(
            "train",
            step,
            loss=loss,
            samples_per_second=round(samples_per_second, 1),
            learning_rate=rate,
            **told,
        )
        for table, figures in self.assembly.ids.figures().items():
            self.id_figures[table] = figures
            self.recorder.write("ids", step, table=table, **figures)
        return stop

    def _diverged(self, what: str, got: float | None) -> TrainingError:
        """Return the error; its fixes change what a run was started with, so they need a new folder."""
        train = self.config.train
        return TrainingError(
            what,
            where=f"step {self.progress.step}",
            got=got,
            fixes=[
                f"train in another folder (--out) with a lower train.dense_optimizer.learning_rate "
                f"({train.dense_optimizer.learning_rate}) or train.embedding_optimizer.learning_rate "
                f"({train.embedding_optimizer.learning_rate})",
                "there, or with train.max_gradient_norm: 1.0",
                "there, or with train.schedule.warmup_steps",
            ],
            also=self.guard.causes_of_nan(self.progress.step),
        )

    def _evaluate(self) -> bool:
        """Evaluate the validation split; return whether its checkpoint must be kept as the best."""
        assert self.validation is not None
        self._sync_tables()
        self.meter.pause()
        pin = self.context.device.type == "cuda"
        batches = prefetched(self.validation.batches(0), self.config.data.prefetch_batches, pin)
        batches = self.assembly.ids.looked_up(batches, self.context.device)
        with self.steps.paused(), self.assembly.averaged():
            found = self.measure.of(self.assembly.task, batches, self.context.device)
        metrics = found.metrics
        if skipped := rows_skipped(found, self.validation.rows, "valid"):
            metrics["rows_skipped"] = skipped
        progress = self.progress
        # Every rank has the same metrics to the last bit, and so decides alike.
        progress.evaluation, progress.evaluated_step = metrics, progress.step
        unknown = {table: told["oov_share"] for table, told in self.assembly.ids.lookup_figures().items()}
        told = {"oov_share": unknown} if unknown else {}
        self.recorder.write("evaluation", progress.step, epoch=progress.epoch, **metrics, **told)
        self.guard.evaluated(progress.step, metrics)
        if self.config.train.plateau is not None:
            follow_plateau(progress, self.config.train.plateau)
        stopping = self.config.train.early_stopping
        improved = stopping is not None and update_best(progress, stopping)
        if progress.finished:
            self.guard.ended(progress.step, progress.best_metrics or metrics)
        self.meter.resume()
        return improved

    def _save(self) -> None:
        self._sync_tables()
        self.meter.pause()
        self.progress.guard = self.guard.state
        state = self.assembly.state()
        # The loss in the log is that of the weights before the last update.
        if not all_finite(state["model"], self.context.device):
            raise self._diverged("the weights are not finite numbers", None)
        facts = {
            "world_size": self.context.world_size,
            "spec_hash": self.manifest.spec.hash,
            "config": self.config.as_dict(),
        }
        keep = self.config.train.keep_checkpoints
        save_checkpoint(self.folder, self.progress, state, facts, keep)
        self.saved_step = self.progress.step
        self.recorder.write("checkpoint", self.progress.step)
        self.meter.resume()

    def _halt_by_guard(self) -> None:
        """End the run with a checkpoint where the guard says so; all ranks agree."""
        if not self.guard.halts:
            return
        checkpoint = None
        if self.progress.step:
            if self.saved_step != self.progress.step:
                self._save()
            self._write_result("guard")
            checkpoint = checkpoint_path(self.folder, self.progress.step)
        raise self.guard.error(checkpoint)

    def _end(self) -> None:
        """Evaluate and save the last step unless that is done."""
        if self.validation is not None and self.progress.evaluated_step != self.progress.step:
            self._evaluate()
        self.progress.finished = True
        if self.saved_step != self.progress.step:
            self._save()

    def _write_result(self, stopped: str) -> None:
        peak = torch.tensor([peak_memory_gib()], device=self.context.device)
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
        done_before = self.folder.result_file.exists() and self.progress.step == self.first_step
        if self.context.rank == 0 and not done_before:
            self._write_result_file(stopped, float(peak.item()))
        # Under torchrun every rank reads the result right after this job.
        dist.barrier()

    def _write_result_file(self, stopped: str, peak_gib: float) -> None:
        """Write `result.json`.

        `samples_per_second` counts the rows of weight above 0 of all ranks in this launch over its training
        time: reading, forward, backward and update, without set-up, evaluations and checkpoints. `seconds`
        is the wall time of this launch from the assembled model to here, all of these included.
        """
        progress = self.progress
        best = progress.best_step if self.config.train.early_stopping else progress.step
        chosen = progress.step if best is None else best
        # An interrupted run is not evaluated where it stopped.
        newest = progress.evaluation if progress.evaluated_step == progress.step else None
        write_json(
            self.folder.result_file,
            {
                "run": self.config.name,
                "steps": progress.step,
                "total_steps": self.total_steps,
                "epochs": progress.epoch,
                "stopped": stopped,
                "best_step": progress.best_step,
                "checkpoint": checkpoint_path(self.folder, chosen).name,
                "metrics": progress.best_metrics if chosen == progress.best_step else newest,
                "rows_skipped": progress.rows_skipped,
                "guard": self.guard.findings,
                **({"ids": self.id_figures} if self.id_figures else {}),
                "modules_ahead": self.steps.modules_ahead,
                "samples_per_second": round(self.meter.overall(), 1),
                "seconds": round(time.monotonic() - self.meter.started, 2),
                "world_size": self.context.world_size,
                "peak_memory_gib": round(peak_gib, 3),
                "progress": asdict(progress),
            },
        )

    def _open_validation(self) -> Any:
        split = self.manifest.splits.get("valid")
        if split is None or split.rows == 0:
            return None
        dataset, shift = self.folder.dataset(), self.manifest.logit_shift("valid", self.manifest)
        self.measure = SplitMeasure.open(self.config, self.manifest, dataset, "valid", logit_shift=shift)
        return open_split(self.config, self.manifest, dataset, "valid", self.context, training=False)

    def _restore(self) -> Progress:
        found = newest_progress(self.folder)
        if found is None:
            model = self.assembly.task
            self.pretrained = load_pretrained(self.config, self.manifest, self.folder, model)
            load_pretrained_parts(self.config, self.manifest, self.folder, self.assembly)
            return Progress()
        checkpoint, progress = found
        self.assembly.load(checkpoint)
        stopping = self.config.train.early_stopping
        # More epochs or steps may have been asked for since; only lost patience ends a run for good.
        progress.finished = False
        if stopping is not None:
            use_metric(progress, stopping.metric)
            progress.finished = progress.evaluations_since_best >= stopping.patience
        return progress
