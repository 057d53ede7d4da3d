"""Flags that the other trainer does not take together; it ends with an error, mostly a traceback, and so does import-flags.

What a single flag may be is in ``table.py``, what this trainer does not take is the configuration's to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from dlrm.errors import ConfigProblem
from dlrm.format import escaped
from dlrm.moving.lines import Command

_LARGEST_SEED = 2**32 - 1  # of numpy's generator


def refusals(command: Command) -> Iterator[ConfigProblem]:
    """Every combination of flags in a command line that the trainer refuses."""
    for check in (_paths, _names, _multi_hot, _shuffle, _schedule, _model):
        for flag, message in check(command):
            yield ConfigProblem(f"--{flag}", "", message)


def _paths(command: Command) -> Iterator[tuple[str, str]]:
    if None not in (command["in_memory_binary_criteo_path"], command["synthetic_multi_hot_criteo_path"]):
        yield "synthetic_multi_hot_criteo_path", "and --in_memory_binary_criteo_path exclude each other: drop one"


def _names(command: Command) -> Iterator[tuple[str, str]]:
    name = command["dataset_name"]
    if command.trainer == "facebookresearch" and name not in ("criteo_1t", "criteo_kaggle"):
        message = "must be criteo_1t or criteo_kaggle (MLPerf's trainer takes any: --trainer mlperf before the --)"
        yield "dataset_name", f"is {escaped(name, 40)}, {message}"


def _multi_hot(command: Command) -> Iterator[tuple[str, str]]:
    if command.data == "multi_hot":
        for flag in ("multi_hot_sizes", "multi_hot_distribution_type"):
            if flag in command.given:
                yield (
                    flag,
                    "makes multi-hot ids of one-hot ones, and --synthetic_multi_hot_criteo_path has them: drop one",
                )
        return
    if command["multi_hot_sizes"] is not None:
        for flag in ("num_embeddings_per_feature", "multi_hot_distribution_type"):
            if command[flag] is None:
                yield "multi_hot_sizes", f"needs --{flag}, without which that trainer ends with an error"
    elif command["collect_multi_hot_freqs_stats"]:
        yield "collect_multi_hot_freqs_stats", "needs --multi_hot_sizes, without which that trainer ends with an error"


def _shuffle(command: Command) -> Iterator[tuple[str, str]]:
    if command["shuffle_training_set"] and command.data == "multi_hot":
        yield "shuffle_training_set", "is not implemented for --synthetic_multi_hot_criteo_path there: drop it"
    seed = command["seed"]
    if seed is not None and not 0 <= seed <= _LARGEST_SEED:
        yield "seed", f"is {seed}, must be from 0 to {_LARGEST_SEED}"


def _schedule(command: Command) -> Iterator[tuple[str, str]]:
    warmup, start = command["lr_warmup_steps"], command["lr_decay_start"]
    if start < warmup:
        yield (
            "lr_warmup_steps",
            f"is {warmup}, beyond --lr_decay_start {start}, which that trainer refuses with or without a decay: add "
            f"--lr_decay_start {warmup}",
        )


def _model(command: Command) -> Iterator[tuple[str, str]]:
    bottom, top, dim = (command[flag] for flag in ("dense_arch_layer_sizes", "over_arch_layer_sizes", "embedding_dim"))
    if bottom[-1] != dim:
        yield "dense_arch_layer_sizes", f"ends with {bottom[-1]}, --embedding_dim is {dim}: they must be equal"
    if len(top) < 2:
        yield "over_arch_layer_sizes", "has one layer, must have two or more"
    elif top[-1] != 1:
        yield "over_arch_layer_sizes", f"ends with {top[-1]}, must end with 1: the last layer gives the logit"
    if command["interaction_type"] == "projection":
        for branch in ("interaction_branch1_layer_sizes", "interaction_branch2_layer_sizes"):
            if command[branch][-1] % dim:
                yield branch, f"ends with {command[branch][-1]}, must be a multiple of --embedding_dim ({dim})"
