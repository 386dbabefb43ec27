"""The user's own figures of hardware: `plan.hardware` and the file of `plan --hardware`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sharding.errors import PlanError
from sharding.hardware import Hardware, find_hardware
from sharding.machines import CATALOGUE, Catalogue, Machine
from sharding.measured import Measured
from trainer.config import GpuConfig, HardwareConfig, MachineConfig
from trainer.config.files import read_mapping
from trainer.config.messages import config_error

if TYPE_CHECKING:
    from jobs.cluster import Cluster

_GIVEN = "given by the user"


def catalogue_of(
    config: HardwareConfig, file: str | Path | None = None, known: Catalogue = CATALOGUE
) -> Catalogue:
    """Return the catalogue with the entries of a config, then those of a YAML file, which win.

    Args:
        config: section `plan.hardware`.
        file: of the same form, with the keys `gpus` and `machines`.
        known: entries that those of the user replace or stand beside.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
        PlanError: a new entry lacks a figure, or is like an entry that does not exist.
    """
    catalogue = _with_entries(known, config, "plan.hardware")
    if file is None:
        return catalogue
    raw = read_mapping(Path(file), "the hardware file")
    try:
        own = HardwareConfig.model_validate(raw)
    except ValidationError as error:
        raise config_error(error, HardwareConfig, where=str(file)) from error
    return _with_entries(catalogue, own, str(file))


def with_own_figures(cluster: Cluster, config: HardwareConfig, file: str | Path | None = None) -> Cluster:
    """Return ranks with the figures that the user gave for their GPU, or for `cpu`.

    Memory that the machine of the ranks told of itself stays.

    Args:
        cluster: the ranks; without `hardware` of their own nobody asked their hosts.
        config: see `catalogue_of`, like `file`.
        file: as above.

    Raises:
        ConfigError, PlanError: see `catalogue_of`.
    """
    own, name = cluster.rank_hardware, cluster.gpu or "cpu"
    known = Catalogue({**CATALOGUE.hardware, name: own}, CATALOGUE.machines)
    figures = catalogue_of(config, file, known).hardware[name]
    if cluster.hardware is not None:
        memory = "hbm_gib" if own.device == "cuda" else "host_memory_gib"
        figures = replace(figures, **{memory: getattr(own, memory)})
    return cluster if figures == own else replace(cluster, hardware=figures)


def gpu_of(name: str, config: HardwareConfig) -> Hardware:
    """Return the entry of the GPUs that `--gpu` names, of the catalogue or the user's own.

    Args:
        name: in any case.
        config: section `plan.hardware`.

    Raises:
        PlanError: there is no such GPU, or it is a machine; or see `catalogue_of`.
    """
    catalogue = catalogue_of(config)
    machine = catalogue.machines.get(name.lower())
    if machine is not None and name.lower() not in catalogue.hardware:
        raise PlanError(
            "Spark's GPUs are named, not the machines that have them",
            where="--gpu",
            got=name,
            fixes=[f"--gpu {machine.gpu}"],
        )
    return _entry(name, catalogue.hardware, "--gpu")


def _with_entries(catalogue: Catalogue, config: HardwareConfig, where: str) -> Catalogue:
    _check_names(config, where)
    hardware = dict(catalogue.hardware)
    for name, gpu in config.gpus.items():
        hardware[name.lower()] = _gpu(name.lower(), gpu, hardware, f"{where}: gpus.{name}")
    machines = dict(catalogue.machines)
    for name, machine in config.machines.items():
        before = machines.get(name.lower())
        place = f"{where}: machines.{name}"
        machines[name.lower()] = _machine(name.lower(), machine, before, hardware, place)
    return Catalogue(hardware, machines)


def _check_names(config: HardwareConfig, where: str) -> None:
    """Refuse names that `--cluster` cannot take.

    Raises:
        PlanError: there is one.
    """
    named = [("gpus", name) for name in config.gpus] + [("machines", name) for name in config.machines]
    for section, name in named:
        number = section == "machines" and name.isdecimal()
        if number or not name or re.search(r"[\s+,]", name):
            better = "-".join(re.findall(r"[^\s+,]+", name)) or section[:-1]
            raise PlanError(
                "--cluster cannot take this name",
                where=f"{where}: {section}.{name}",
                got=name,
                allowed="no spaces, commas or `+`, and for machines more than a number",
                fixes=[f"{section}.{better}-node" if number else f"{section}.{better}"],
            )


def _entry(name: str, known: Mapping[str, Hardware], where: str) -> Hardware:
    """Return the entry that the user names.

    Raises:
        PlanError: there is none; it says where it was named.
    """
    try:
        return find_hardware(name, known)
    except PlanError as error:
        raise PlanError(
            error.what, where=where, got=error.got, allowed=error.allowed, fixes=error.fixes
        ) from error


def _given(config: GpuConfig | MachineConfig) -> dict[str, Any]:
    """Return the figures that are given, each with a source."""
    given = config.model_dump(exclude_none=True, exclude={"like", "measured"})
    if "price_per_hour" in given:
        given.setdefault("price_source", _GIVEN)
    return given


def _gpu(name: str, config: GpuConfig, known: dict[str, Hardware], where: str) -> Hardware:
    base = name if config.like is None else config.like
    if config.like is None and name not in known:
        raise PlanError(
            "a new GPU needs an entry that gives the figures left out",
            where=where,
            got=name,
            allowed=list(known),
            fixes=["like: h100"],
        )
    entry = _entry(base, known, f"{where}.like" if config.like else where)
    if name in known and known[name].device != entry.device:
        raise PlanError(
            f"{name} is no {'GPU' if entry.device == 'cuda' else 'CPU'}",
            where=f"{where}.like",
            got=config.like,
            allowed=[other for other in known if known[other].device == known[name].device],
        )
    source = f"{_GIVEN}; else {entry.name}: {entry.source}"
    own = replace(entry, name=name, **{"source": source, **_given(config)})
    if config.measured is not None:
        own = replace(own, measured=Measured.from_record(config.measured.model_dump()))
    # Ranks may have been named with these very figures.
    same = entry.source.startswith(_GIVEN) and replace(own, source=entry.source) == entry
    return entry if same else own


def _machine(
    name: str, config: MachineConfig, before: Machine | None, known: dict[str, Hardware], where: str
) -> Machine:
    given = _given(config)
    if config.gpu is not None:
        given["gpu"] = _entry(config.gpu, known, f"{where}.gpu").name
    if before is not None:
        return replace(before, **{"source": f"{_GIVEN}; else {before.source}", **given})
    if config.gpu is None or config.gpus is None:
        raise PlanError(
            "a new machine needs its GPU and their number",
            where=where,
            got=", ".join(given) or "nothing",
            fixes=["gpu: h100", "gpus: 8"],
        )
    gpu = known[given["gpu"]]
    shared = {
        "host_memory_gib": gpu.host_memory_gib * config.gpus,
        "host_memory_gbps": gpu.host_memory_gbps * config.gpus,
        "nvlink_gbps": gpu.nvlink_gbps,
        "nic_gbps": gpu.nic_gbps * config.gpus,
        "ssd_gib": gpu.ssd_gib * config.gpus,
        "source": _GIVEN,
    }
    return Machine(name=name, **{**shared, **given, "gpu": gpu.name})
