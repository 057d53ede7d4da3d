"""The catalogues: devices, networks and reference points, read from YAML once.

Where one fact is needed, it is looked up here, so that each is in one place: ``devices.yaml``, ``networks.yaml`` and
``reference_points.yaml`` beside this file. A file of one's own in the form of ``devices.yaml`` can go before the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from dlrm.config.dialect import Loader
from dlrm.errors import ConfigError
from dlrm.format import did_you_mean, escaped
from dlrm.hardware.entries import Device, Entry, Network, ReferencePoint

_HERE = Path(__file__).parent
_LONGEST_SHOWN = 60

_Entry = TypeVar("_Entry", bound=Entry)


@cache
def devices() -> tuple[Device, ...]:
    """All devices; the first that fits a name is the device of that name."""
    return read_devices(_HERE / "devices.yaml")


@cache
def networks() -> Mapping[str, Network]:
    """All networks by name."""
    path = _HERE / "networks.yaml"
    return MappingProxyType({name: _entry(path, name, Network, entry) for name, entry in _mapping(path).items()})


@cache
def reference_points() -> tuple[ReferencePoint, ...]:
    """All speeds that others measured."""
    path = _HERE / "reference_points.yaml"
    return tuple(_entry(path, _place(entry, i), ReferencePoint, entry) for i, entry in enumerate(_list(path)))


def read_devices(path: Path) -> tuple[Device, ...]:
    """The devices of a file in the form of ``devices.yaml``.

    Raises:
        ConfigError: it cannot be read, or an entry is not as it should be; one line that names the entry and the key.
    """
    return tuple(_entry(path, _place(entry, i), Device, entry) for i, entry in enumerate(_list(path)))


def known_device(name: str) -> Device | None:
    """The entry for what ``torch.cuda.get_device_name`` says; None for others and for parts of a device (MIG)."""
    return next((device for device in devices() if device.fits(name)), None)


def _entry(path: Path, place: str, kind: type[_Entry], values: Any) -> _Entry:
    if not isinstance(values, dict):
        raise ConfigError.at(place, f"is {_shown(values)}, not an entry with keys and values", str(path))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        key = ".".join([place, *(str(part) for part in detail["loc"])])
        raise ConfigError.at(key, _problem(detail, kind), str(path)) from None


def _problem(detail: Any, kind: type[Entry]) -> str:
    match detail["type"]:
        case "missing":
            return "is missing; an entry has every key, null where nothing is known"
        case "extra_forbidden":
            meant = did_you_mean(str(detail["loc"][-1]), kind.model_fields)
            return f"is no key of this catalogue{f'; {meant}' if meant else ''}"
        case "value_error":
            return str(detail["ctx"]["error"])
        case _:
            message = detail["msg"][0].lower() + detail["msg"][1:]
            return f"is {_shown(detail['input'])}: {message}"


def _place(entry: Any, number: int) -> str:
    """How an entry of a list is called in a message: by its name, or by where it is."""
    words = entry.get("words") if isinstance(entry, dict) else None
    name = " ".join(map(str, words)) if isinstance(words, list) else None
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        name = entry["name"]
    return f"entry {number + 1}" if name is None else f"entry {number + 1} ({escaped(name, _LONGEST_SHOWN)})"


def _mapping(path: Path) -> dict[str, Any]:
    values = _read(path)
    if not isinstance(values, dict):
        raise ConfigError.at("", "holds no entries by name", str(path))
    return values


def _list(path: Path) -> list[Any]:
    values = _read(path)
    if not isinstance(values, list):
        raise ConfigError.at("", "holds no list of entries; each begins with a dash", str(path))
    return values


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise ConfigError.at("", f"cannot be read ({error.strerror})", str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError.at("", "is not UTF-8 text", str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError.at("", f"is not valid YAML: {getattr(error, 'problem', error)}", where) from None


def _shown(value: Any) -> str:
    return escaped(repr(value), _LONGEST_SHOWN)
