"""Run a chosen part of the tests with every supported triple of torch, fbgemm and torchrec, and print a table.

    python3 -m scripts.try_versions [--torch 2.11,2.12] [--accelerator cpu|cuda] [--keep] [--log FOLDER] [tests ...]

Each triple gets an environment of its own, ``.venv-2.11`` and so on (some GB where only the build for CUDA is to be had),
made by scripts/install.py and removed afterwards unless ``--keep`` is given; one that is there is used again. One triple is
tried at a time. Exit code 1 if a test fails, an environment cannot be made, or no test was run. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlrm.distributed.versions import Triple, supported

ROOT = Path(__file__).resolve().parents[1]
_SAME = "tests/dist/test_same_training.py::test_losses_do_not_depend_on"
TESTS = (  # what touches torch, fbgemm and torchrec; data and configuration do not care
    *(
        f"tests/unit/{folder}"
        for folder in ("contracts", "distributed", "layers", "metrics", "models", "optim", "sharding", "train")
    ),
    *(
        f"{_SAME}_{what}"
        for what in ("the_mixture_of_sharding_types", "ranks_with_dropout_schedule_clipping_and_rates")
    ),
    *(f"tests/dist/test_{name}.py" for name in ("levers", "world")),
    "tests/e2e/test_run.py",
)
HEADER = ("torch", "fbgemm-gpu", "torchrec", "passed", "failed", "skipped", "time")


@dataclass(frozen=True)
class Result:
    """What became of the tests with one triple.

    Attributes:
        versions: installed torch, fbgemm build and torchrec.
        passed, failed, skipped: tests; failures: names and what was said of those that failed.
        seconds: that pytest took.
        problem: why there are no results; empty if there are.
    """

    versions: tuple[str, str, str]
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    problem: str = ""

    @property
    def good(self) -> bool:
        return self.passed > 0 and not self.failed and not self.problem

    def row(self) -> tuple[str, ...]:
        counts = (str(self.passed), str(self.failed), str(self.skipped))
        return (
            *self.versions,
            *(counts if not self.problem else ("", self.problem, "")),
            f"{self.seconds / 60:.1f} min",
        )


def try_triple(triple: Triple, accelerator: str, tests: Sequence[str], log: Path, *, keep: bool) -> Result:
    """Make the environment, run the tests in it, remove it."""
    name = f".venv-{triple.torch}"
    python = ROOT / name / "bin" / "python"
    planned = (triple.torch, triple.fbgemm, triple.torchrec)
    environment = {**os.environ, "DLRM_VENV": name}
    install = ["scripts/install.sh", "--dev", "--torch", triple.torch, "--accelerator", accelerator]
    try:
        if subprocess.run(install, cwd=ROOT, env=environment, stdout=sys.stderr).returncode != 0:
            return Result(planned, problem="not installed")
        report = log / f"{triple.torch}.xml"
        command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
        with (log / f"{triple.torch}.log").open("w") as output:
            code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT).returncode
        if not report.is_file():
            return Result(planned, problem=f"pytest ended with {code}")
        return read_report(report, installed_versions(python))
    finally:
        if not keep:
            shutil.rmtree(ROOT / name, ignore_errors=True)


def installed_versions(python: Path) -> tuple[str, str, str]:
    """As the environment's own metadata says."""
    script = (
        "from dlrm.distributed.versions import Installed; here = Installed.here(); "
        "print(here.torch, *(f'{version} ({build})' for build, version in here.fbgemm.items()), here.torchrec, sep='|')"
    )
    said = subprocess.run([str(python), "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    torch, fbgemm, torchrec = said.strip().split("|")
    return torch, fbgemm, torchrec


def read_report(path: Path, versions: tuple[str, str, str]) -> Result:
    """The sums of pytest's JUnit file."""
    suite = ElementTree.parse(path).getroot()
    suite = suite.find("testsuite") if suite.tag == "testsuites" else suite
    assert suite is not None
    failed = [
        f"{case.get('classname')}::{case.get('name')}: {(fault.get('message') or '').splitlines()[:1]}"
        for case in suite.iter("testcase")
        for fault in (*case.findall("failure"), *case.findall("error"))
    ]
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    return Result(
        versions,
        passed=total - skipped - len(failed),
        failed=len(failed),
        skipped=skipped,
        seconds=float(suite.get("time", 0)),
        failures=tuple(failed),
    )


def markdown(results: Sequence[Result]) -> str:
    rows = [HEADER, ("---",) * len(HEADER), *(result.row() for result in results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", help=f"files or folders of tests (default: {' '.join(TESTS)})")
    parser.add_argument("--torch", default="", help="the triples of these torch only, e.g. 2.11,2.12")
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--keep", action="store_true", help="leave the environments, for another try")
    parser.add_argument("--log", type=Path, help="folder for pytest's output (default: a temporary one)")
    options = parser.parse_args()
    table = {triple.torch: triple for triple in supported()}
    asked = options.torch.split(",") if options.torch else list(table)
    if unknown := [torch for torch in asked if torch not in table]:
        parser.error(f"torch {unknown[0]} is not supported; choose from {', '.join(table)}")
    log = options.log or Path(tempfile.mkdtemp(prefix="dlrm_versions_"))
    log.mkdir(parents=True, exist_ok=True)
    results = []
    for torch in asked:
        result = try_triple(table[torch], options.accelerator, options.tests or TESTS, log, keep=options.keep)
        print(*result.failures, sep="\n", end="\n" if result.failures else "", file=sys.stderr)
        results.append(result)
    print(markdown(results))
    print(f"pytest's output: {log}", file=sys.stderr)
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
