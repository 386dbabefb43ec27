"""Denormal numbers are zeros inside the context only."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trainer.denormals import denormals_flushed


def half_of_the_smallest() -> float:
    return (torch.tensor([torch.finfo(torch.float32).tiny]) / 2).item()


@pytest.fixture(autouse=True)
def _needs_flushing() -> None:
    can = torch.set_flush_denormal(True)
    torch.set_flush_denormal(False)
    if not can:
        pytest.skip("this CPU cannot flush denormal numbers")


def fail_inside() -> None:
    with denormals_flushed():
        assert half_of_the_smallest() == 0
        raise KeyError


def test_they_are_zeros_inside_and_numbers_again_after_an_error() -> None:
    assert half_of_the_smallest() > 0
    with pytest.raises(KeyError):
        fail_inside()
    assert half_of_the_smallest() > 0


def test_who_flushed_before_goes_on() -> None:
    with denormals_flushed():
        with denormals_flushed():
            pass
        assert half_of_the_smallest() == 0


def test_numpy_warns_of_nothing_that_was_not_asked_of_it_before() -> None:
    code = (
        "import warnings\n"
        "import numpy as np\n"
        "from trainer.denormals import denormals_flushed\n"
        "with denormals_flushed(), warnings.catch_warnings():\n"
        "    warnings.simplefilter('error')\n"
        "    for kind in (np.float16, np.float32, np.float64):\n"
        "        str(np.finfo(kind))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
