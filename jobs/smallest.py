"""The cheapest cluster that fits: `shardrec plan --smallest`."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence

from jobs.planning import Planning
from sharding.errors import PlanError
from sharding.machines import Catalogue
from sharding.plan import Plan
from sharding.topology import Cluster
from sharding.verdicts import NoPlanError

_ONE_BY_ONE = 3
"""More numbers of nodes that are tried one by one before the number doubles."""


def smallest_plan(
    planning: Planning,
    kinds: Sequence[Cluster],
    *,
    batch_size_per_rank: int | None = None,
    max_nodes: int = 128,
) -> Plan:
    """Return the plan on the cluster with the lowest price an hour; without prices, on the fewest ranks.

    Numbers of nodes whose ranks training would refuse are left out. Each kind of node starts at the number
    that its memory needs at least. Whether a plan is found need not grow with the nodes, so a smaller cluster
    may fit all the same.

    Args:
        planning: the model.
        kinds: one node of each kind.
        batch_size_per_rank: rows that one rank reads per step; default the config's share of a rank.
        max_nodes: largest cluster to try.

    Raises:
        PlanError: no plan was found on up to `max_nodes` of any kind.
    """
    search = _Search(planning, batch_size_per_rank)
    sized = [clusters for kind in kinds if (clusters := search.clusters(kind, max_nodes))]
    best: Plan | None = None
    for clusters in sorted(sized, key=lambda clusters: _cost(clusters[0])):
        limit = None if best is None else _cost(best.cluster)
        cheaper = [cluster for cluster in clusters if limit is None or _cost(cluster) < limit]
        if cheaper:
            search.tell_refused(cheaper[0])
            best = _least_plan(cheaper, search.found) or best
    if best is None:
        taken = any(not planning.refusals(kind.with_nodes(2 * max_nodes)) for kind in kinds)
        more = [f"--max-nodes {2 * max_nodes}"] if taken else []
        raise PlanError(
            f"no plan was found on up to {max_nodes} nodes",
            where="--smallest",
            got=", ".join(str(kind) for kind in kinds),
            fixes=[*more, *search.fixes()],
            also=search.reasons(),
        )
    return best


def node_kinds(names: Sequence[str], catalogue: Catalogue) -> list[Cluster]:
    """Return one node of each kind, by default of every machine with a price.

    Args:
        names: machines by name, or GPUs as `8xh100`.
        catalogue: that has them.

    Raises:
        PlanError: a name is neither, or the catalogue does not have it.
    """
    priced = [name for name, machine in catalogue.machines.items() if machine.price_per_hour is not None]
    return [_node(name, catalogue) for name in names or priced]


def _node(name: str, catalogue: Catalogue) -> Cluster:
    try:
        return Cluster.parse(f"1x{name}", catalogue)
    except PlanError as error:
        raise PlanError(
            error.what,
            where="--smallest",
            got=name,
            allowed=error.allowed if isinstance(error.allowed, list) else "such as p5.48xlarge or 8xh100",
            fixes=[fix.replace("--cluster 1x", "--smallest ") for fix in error.fixes],
        ) from error


class _Search:
    """Plans on clusters, and why there is none on some."""

    def __init__(self, planning: Planning, batch_size_per_rank: int | None) -> None:
        self._planning = planning
        self._batch_size = batch_size_per_rank
        self._failures: dict[Cluster, str] = {}
        self._errors: dict[Cluster, PlanError] = {}
        self._refused: dict[Cluster, list[str]] = {}

    def clusters(self, kind: Cluster, max_nodes: int) -> list[Cluster]:
        """Return clusters of a kind by size: those that training takes and whose memory holds the bytes."""
        taken, refused = [], []
        for cluster in map(kind.with_nodes, range(1, max_nodes + 1)):
            reasons = self._planning.refusals(cluster)
            refused += reasons
            taken += [] if reasons else [cluster]
        self._refused[kind.with_nodes(1)] = refused
        first = _first(lambda number: self._fits_bytes(taken[number - 1]), len(taken)) if taken else None
        return [] if first is None else taken[first - 1 :]

    def tell_refused(self, cluster: Cluster) -> None:
        """Say on stderr which clusters of the same kind are left out."""
        kind = cluster.with_nodes(1)
        if refused := self._refused[kind]:
            count = len(refused)
            said = f"{count} numbers of nodes like {kind} are left out, since training refuses them, such as"
            print(f"{said}: {refused[0]}", file=sys.stderr)  # noqa: T201

    def found(self, cluster: Cluster) -> Plan | None:
        """Return the plan on a cluster; where there is none, say so on stderr."""
        try:
            return self._planning.plan(cluster, self._batch_size)
        except PlanError as error:
            self._keep(cluster, error)
            said = error.verdict if isinstance(error, NoPlanError) else error.what
            print(f"{cluster}: {said}", file=sys.stderr)  # noqa: T201
            return None

    def reasons(self) -> list[str]:
        """Return why the last cluster of each kind has no plan, and why the largest ones were left out."""
        refused = dict.fromkeys(lines[-1] for lines in self._refused.values() if lines)
        return [*self._failures.values(), *refused]

    def fixes(self) -> list[str]:
        """Return what would help the largest cluster that failed, but for more nodes."""
        if not self._errors:
            return []
        largest = max(self._errors, key=lambda cluster: cluster.rank_hardware.memory_gib * cluster.world_size)
        return [fix for fix in self._errors[largest].fixes if not fix.startswith("--cluster")]

    def _fits_bytes(self, cluster: Cluster) -> bool:
        try:
            self._planning.check_bytes(cluster, self._batch_size)
        except PlanError as error:
            self._keep(cluster, error)
            return False
        return True

    def _keep(self, cluster: Cluster, error: PlanError) -> None:
        self._errors[cluster] = error
        first, _, _ = error.what.partition("\n")
        place = f" ({error.where})" if error.where and str(cluster) not in error.where else ""
        self._failures[cluster.with_nodes(1)] = f"{cluster}: {first}{place}"


def _cost(cluster: Cluster) -> tuple[float, int]:
    price = cluster.price_per_hour
    return (math.inf if price is None else price, cluster.world_size)


def _least_plan(clusters: Sequence[Cluster], found: Callable[[Cluster], Plan | None]) -> Plan | None:
    """Return the plan on the smallest of ever larger clusters: steps, then doubling, then back by halving."""
    plan, failed, place = None, -1, 0
    while plan is None and place < len(clusters):
        plan = found(clusters[place])
        if plan is None:
            failed, place = place, _next(clusters, place)
    while plan is not None and place - failed > 1:
        middle = (place + failed) // 2
        smaller = found(clusters[middle])
        if smaller is None:
            failed = middle
        else:
            plan, place = smaller, middle
    return plan


def _next(clusters: Sequence[Cluster], place: int) -> int:
    """Return the place of the cluster to try next; past the last one there is none."""
    if place < _ONE_BY_ONE:
        return place + 1
    doubled = bisect_left(clusters, 2 * clusters[place].nodes, key=lambda cluster: cluster.nodes)
    return min(doubled, max(place + 1, len(clusters) - 1))


def _first(holds: Callable[[int], bool], most: int) -> int | None:
    """Return the least number up to `most` for which something holds that then goes on to hold."""
    high = 1
    while not holds(high):
        if high == most:
            return None
        high = min(2 * high, most)
    low = high // 2  # 0, or a number for which it does not hold
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
