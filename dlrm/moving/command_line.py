"""A command line as somebody typed it: how many ranks its launcher starts, and which words are the trainer's."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from dlrm.errors import ConfigError

_GIVE_RANKS = "give their number before the --: import-flags --ranks 8 -- ..."
_ENVIRONMENT = re.compile(r"^[A-Za-z_]\w*=")
_LAUNCHER_MODULES = ("torch.distributed.run", "torch.distributed.launch")
_TORCHX_DEFAULTS = {"dist.ddp": "1x2", "dist.spmd": "1x1"}


@dataclass(frozen=True)
class Launch:
    """A command line taken apart.

    Attributes:
        words: the trainer's flags; ranks: that are started; source: which words say so.
    """

    words: tuple[str, ...]
    ranks: int
    source: str


def launch_of(words: Sequence[str], ranks: int | None) -> Launch:
    """Take a command line apart.

    Args:
        words: of it, in full or from the script or the first flag on; a single word is split as a shell would.
        ranks: their number, where somebody says it.

    Raises:
        ConfigError: the number of ranks is neither there nor given, or is both and differs; there is no trainer in it.
    """
    if len(words) == 1 and " " in words[0]:
        words = _as_a_shell(words[0])
    words = list(words)
    while words and _ENVIRONMENT.match(words[0]):
        del words[0]
    flags, found, source = _taken_apart(words)
    if ranks is None and found is None:
        raise ConfigError.at("", f"{source}, and --batch_size is that of one rank: {_GIVE_RANKS}", "number of ranks")
    if None not in (ranks, found) and ranks != found:
        raise ConfigError.at("--ranks", f"is {ranks}, the command line starts {found} ({source}): leave --ranks out")
    if found is None:
        found, source = ranks, f"--ranks {ranks}"
    assert found is not None
    return Launch(tuple(flags), found, source)


def _as_a_shell(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError.at("command line", f"is no line of a shell: {str(error).lower()}") from None


def _taken_apart(words: Sequence[str]) -> tuple[Sequence[str], int | None, str]:
    """The trainer's words, the ranks or None, and what says so or why nothing does."""
    if not words or words[0].startswith("-"):
        return words, None, "the command line has no launcher"
    programs = [os.path.basename(word) for word in words]
    script = next((i for i, word in enumerate(programs) if word.endswith((".py", "dlrm_main"))), None)
    if "torchx" in programs[:script]:
        return _torchx(words)
    if script is None:
        raise ConfigError.at(
            "command line", f"names no dlrm_main.py, and {words[0]!r} is no flag: give it as it is typed in a shell"
        )
    before = words[:script]
    if any(os.path.basename(word) == "torchrun" or word in _LAUNCHER_MODULES for word in before):
        return (words[script + 1 :], *_torchrun(before))
    return words[script + 1 :], None, "the command line has no torchx or torchrun"


def _torchx(words: Sequence[str]) -> tuple[Sequence[str], int | None, str]:
    cut = list(words).index("--") if "--" in words else len(words)
    before, flags = words[:cut], words[cut + 1 :]
    asked = _option(before, "-j", "--j")
    if asked is not None:
        return (flags, *_nodes_by_processes(asked))
    trainers = _option(before, "--num_trainers")
    if trainers is not None or any(word.endswith(":run_dlrm_main") for word in before):  # of their aws_component.py
        count = _count(trainers or "8", "--num_trainers")
        if count > 8 and count % 8:
            raise ConfigError.at("--num_trainers", f"is {count}: above 8 it must be a multiple of 8")
        return flags, count, f"--num_trainers {count}"
    if _option(before, "--nproc_per_node", "--nproc-per-node") is not None:
        return (flags, *_torchrun(before))
    for component, default in _TORCHX_DEFAULTS.items():
        if component in before:
            return (flags, *_nodes_by_processes(default))
    return flags, None, "torchx has no -j"


def _nodes_by_processes(asked: str) -> tuple[int | None, str]:
    """What ``-j`` of torchx says: ``2x8``, ``8`` or, of a number of hosts that may change, ``1:2x8``."""
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+)x)?(\d+)", asked)
    if match is None:
        raise ConfigError.at("-j", f"is {asked}, must be hosts x processes such as 1x8")
    smallest, hosts, processes = match[1], int(match[2] or 1), int(match[3])
    if smallest is not None and int(smallest) != hosts:
        return None, f"-j {asked} leaves the number of hosts open"
    if not hosts * processes:
        raise ConfigError.at("-j", f"is {asked}, which starts nothing")
    return hosts * processes, f"-j {asked}"


def _torchrun(before: Sequence[str]) -> tuple[int | None, str]:
    nodes = _option(before, "--nnodes") or "1"
    processes = _option(before, "--nproc_per_node", "--nproc-per-node") or "1"
    said = f"--nnodes {nodes} --nproc_per_node {processes}"
    smallest, _, largest = nodes.partition(":")
    if largest and largest != smallest:
        return None, f"--nnodes {nodes} leaves the number of hosts open"
    if not processes.isdecimal():
        return None, f"--nproc_per_node {processes} depends on the host"
    return _count(smallest, "--nnodes") * _count(processes, "--nproc_per_node"), said


def _option(words: Sequence[str], *names: str) -> str | None:
    """The value of an option among a launcher's words, the last one; None where it is not there."""
    found = None
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else "".join(words[index + 1 : index + 2])
    return found


def _count(text: str, option: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ConfigError.at(option, f"is {text or 'empty'}, must be a number of 1 or more")
    return int(text)
