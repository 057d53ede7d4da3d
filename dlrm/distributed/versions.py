"""Which releases of torch, fbgemm and torchrec belong together, and whether the installed ones do.

fbgemm's and torchrec's compiled code fits one release of torch; with another it dies at import with an undefined symbol.
The check looks at the packages' metadata and imports none of them. The table itself is in pyproject.toml.
"""

from __future__ import annotations

import ctypes
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dlrm.errors import SetupError

FBGEMM_BUILDS = ("fbgemm-gpu", "fbgemm-gpu-cpu", "fbgemm-gpu-nightly", "fbgemm-gpu-nightly-cpu")  # all: fbgemm_gpu
HINT = "run `make install`"
INSTALL_CUDA = "run `make install ACCELERATOR=cuda`"
INSTALL_CPU = "run `make install ACCELERATOR=cpu`"
DRIVER_LIBRARY = "libnvidia-ml.so.1"  # of the NVIDIA driver; fbgemm's CUDA build does not load without it


@dataclass(frozen=True)
class Triple:
    """Releases that were built for each other: ``torch`` as major.minor, the others as major.minor.patch."""

    torch: str
    fbgemm: str
    torchrec: str


@dataclass(frozen=True)
class Installed:
    """What is installed; None is missing.

    Attributes:
        torch, torchrec: full versions, e.g. ``2.13.0+cpu``.
        fbgemm: build -> version of each build that is there.
    """

    torch: str | None
    fbgemm: dict[str, str]
    torchrec: str | None

    @classmethod
    def here(cls) -> Installed:
        """Read the metadata of this interpreter's packages."""
        builds = {build: installed_version(build) for build in FBGEMM_BUILDS}
        return cls(
            torch=installed_version("torch"),
            fbgemm={build: version for build, version in builds.items() if version is not None},
            torchrec=installed_version("torchrec"),
        )

    @property
    def needs_driver(self) -> bool:
        """Whether fbgemm is a build for CUDA, which loads only where the NVIDIA driver's libraries are."""
        return any(not build.endswith("-cpu") and "+cpu" not in version for build, version in self.fbgemm.items())

    def __str__(self) -> str:
        builds = [f"{build} {version}" for build, version in self.fbgemm.items()] or ["no fbgemm-gpu"]
        return ", ".join([_named("torch", self.torch), *builds, _named("torchrec", self.torchrec)])


def check_versions() -> None:
    """Raise unless the installed packages are a supported triple that loads on this machine.

    Raises:
        SetupError: one line with what is installed, what would match, and how to mend it.
    """
    installed = Installed.here()
    wrong = problem(installed, supported()) or driver_problem(installed)
    if wrong:
        raise SetupError(wrong)


def problem(installed: Installed, table: Iterable[Triple]) -> str:
    """What is wrong with ``installed``, in one line; empty if nothing is."""
    triples = {triple.torch: triple for triple in table}
    if installed.torch is None or installed.torchrec is None or not installed.fbgemm:
        return f"packages are missing: found {installed}; {HINT}"
    if len(installed.fbgemm) > 1:
        both = " and ".join(installed.fbgemm)
        return f"{both} are both installed and overwrite each other's files; uninstall both, then {HINT}"
    if not triples:
        return ""  # a copy of the package without its metadata: nothing to compare with
    expected = triples.get(_release(installed.torch, 2))
    if expected is None:
        return f"{installed}: torch must be one of {', '.join(triples)}; {HINT}"
    ((build, version),) = installed.fbgemm.items()
    if _release(version, 3) != expected.fbgemm or _release(installed.torchrec, 3) != expected.torchrec:
        match = f"{build} {expected.fbgemm} and torchrec {expected.torchrec}"
        return f"{installed} do not belong together: torch {expected.torch} needs {match}; {HINT}"
    if "+cpu" in installed.torch and not (build.endswith("-cpu") or "+cpu" in version):
        return f"{installed}: this torch is built for CPU and needs fbgemm-gpu-cpu; {HINT}"
    return ""


def driver_problem(installed: Installed) -> str:
    """Why the CUDA build of fbgemm cannot load here, in one line; empty if it is another build, or can."""
    if not installed.needs_driver:
        return ""
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return (
            f"{DRIVER_LIBRARY} of the NVIDIA driver is not here, and fbgemm-gpu (CUDA) does not load without it; install "
            f"the driver, start a container with its GPUs (docker run --gpus all), or {INSTALL_CPU} to train on CPU"
        )
    return ""


def supported() -> tuple[Triple, ...]:
    """The table, oldest torch first: of the checkout this file lies in, or else of the installed package."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    try:
        if project.is_file():
            extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
            return _triples(extra for name, extra in extras.items() if name.startswith("torch-"))
        requirements = metadata.requires("dlrm") or []
    except (KeyError, metadata.PackageNotFoundError):  # somebody else's pyproject.toml, or a bare copy of the package
        return ()
    by_extra: dict[str, list[str]] = {}
    for requirement in requirements:
        marked = re.search(r"""extra == ["'](torch-[\d.-]+)["']""", requirement)
        if marked:
            by_extra.setdefault(marked[1], []).append(requirement)
    return _triples(by_extra.values())


def _triples(extras: Iterable[Iterable[str]]) -> tuple[Triple, ...]:
    """From requirements like ``torch==2.13.*``, ``fbgemm-gpu==1.8.0`` and ``torchrec==1.8.0``."""
    found = []
    for extra in extras:
        pins = {pin.partition("==")[0].strip(): _leading_release(pin.partition("==")[2]) for pin in extra}
        found.append(Triple(torch=pins["torch"], fbgemm=pins["fbgemm-gpu"], torchrec=pins["torchrec"]))
    return tuple(sorted(found, key=lambda triple: [int(part) for part in triple.torch.split(".")]))


def _leading_release(text: str) -> str:
    """``2.13`` of ``2.13.*; extra == ...``."""
    return re.split(r"[^\d.]", text.strip(), maxsplit=1)[0].rstrip(".")


def _release(version: str, parts: int) -> str:
    return ".".join(re.split(r"[.+]", version)[:parts])


def installed_version(package: str) -> str | None:
    """Of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _named(package: str, version: str | None) -> str:
    return f"{package} {version}" if version else f"no {package}"
