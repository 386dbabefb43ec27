"""The page of what-if plans, for docs/generate.py: what `shardrec plan` prints for the shipped configs."""

from __future__ import annotations

from pathlib import Path

from jobs import RunConfig, plan
from sharding.report import plan_report
from sharding.topology import Cluster

CONFIGS = Path(__file__).resolve().parents[1] / "jobs" / "configs"
CLUSTERS = {
    "criteo_1tb_dlrm": "1xp5.48xlarge",
    "whatif_dlrm_1_25t": "16xp5.48xlarge",
    "whatif_dlrm_3t": "16xp5.48xlarge",
    "whatif_dhen_hsdp": "8xp5.48xlarge",
}
TABLES, RANKS = 8, 4

WHAT_IF_INTRO = f"""# What-if plans

What `shardrec plan` prints for configs that ship, on clusters that nobody has to have.
[Planning](planning.md) explains the figures; times are estimates from data sheets, prices are list prices.
Here only the {TABLES} largest tables and the {RANKS} fullest ranks are shown.
"""


def what_if_page() -> str:
    """Return docs/what-if.md, without the notice above it."""
    return "\n".join([WHAT_IF_INTRO, *(plan_text(name, cluster) for name, cluster in CLUSTERS.items())])


def plan_text(name: str, cluster: str) -> str:
    """Return one config with its plan."""
    path = CONFIGS / f"{name}.yaml"
    made = plan(RunConfig.load(path), cluster=Cluster.parse(cluster))
    report = plan_report(made, max_tables=TABLES, max_ranks=RANKS)
    return "\n".join(
        [
            f"## `{name}.yaml`\n",
            f"{purpose(path)}\n",
            "<!-- not run: docs/generate.py makes this plan -->",
            f"```sh\nshardrec plan jobs/configs/{name}.yaml --cluster {cluster}\n```\n",
            f"```text\n{report}\n```\n",
        ]
    )


def purpose(path: Path) -> str:
    """Return the comment above a config, without the word that says it is a what-if."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("# "))
    text = " ".join(lines).removeprefix("What-if: ")
    return text[:1].upper() + text[1:]
