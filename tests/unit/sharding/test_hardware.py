from __future__ import annotations

import re

import pytest

from sharding.errors import PlanError
from sharding.hardware import HARDWARE, find_hardware


def test_every_entry_names_its_source_and_has_positive_figures() -> None:
    assert {"a100-40", "a100-80", "h100", "h200", "b200", "l40s", "a10g", "t4", "cpu"} <= set(HARDWARE)
    for entry in HARDWARE.values():
        assert len(entry.source) > 10
        assert entry.memory_gib > 0
        assert min(entry.host_memory_gbps, entry.pcie_gbps, entry.nvlink_gbps, entry.nic_gbps) > 0
        assert (entry.hbm_gbps > 0) == (entry.device == "cuda")


@pytest.mark.parametrize("name", [name for name, entry in HARDWARE.items() if entry.device == "cuda"])
def test_a_gpu_has_an_eighth_of_what_all_memory_channels_of_its_server_move(name: str) -> None:
    entry = HARDWARE[name]
    found = re.search(r"(\d) sockets x (\d) channels x DDR\d-(\d+)", entry.source)
    assert found, entry.source
    sockets, channels, megatransfers = map(int, found.groups())
    assert entry.host_memory_gbps == pytest.approx(
        sockets * channels * 8 * megatransfers / 1000 / 8, rel=1e-3
    )


def test_names_are_found_in_any_case() -> None:
    assert find_hardware("H100") is HARDWARE["h100"]


def test_an_unknown_gpu_names_the_nearest_entry() -> None:
    with pytest.raises(PlanError) as error:
        find_hardware("h1000")
    assert "h1000" in str(error.value)
    assert "did you mean 'h100'?" in str(error.value)
    assert "a100-80" in str(error.value)


def test_a_gpu_of_several_sizes_names_them() -> None:
    with pytest.raises(PlanError, match="did you mean 'a100-40' or 'a100-80'"):
        find_hardware("a100")
