"""Flags that say where samples come from, which, and in which order."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator

from dlrm.moving.lines import Command, Differs, Idle, Line, Setting

TERABYTE_ROWS = (
    195841983, 199563535, 196792019, 181115208, 152115810, 172548507, 204846845, 200801003, 193772492, 198424372,
    185778055, 153588700, 169003364, 194216520, 194081279, 187154596, 177984934, 163382602, 142061091, 156534237,
    193627464, 192215183, 189747893, 178274637,
)  # fmt: skip
"""Rows of Criteo Terabyte's days, 4,373,472,329 in all."""
KAGGLE_ROWS = 45_840_617
_HALF = -(-TERABYTE_ROWS[-1] // 2)  # of day 23; the first half has the odd row
_RANDOM_BATCHES = 10  # that the trainer takes of each split where no limit is given, and all that it ever draws


def source(command: Command) -> Iterator[Line]:
    """``--in_memory_binary_criteo_path``, and random data where no path is given."""
    flag = "in_memory_binary_criteo_path"
    if command.data == "one_hot":
        yield Setting("data.kind", "packed", f"--{flag}")
        yield Setting("data.path", command[flag], f"--{flag}")
        yield Setting("data.bad_rows", "hash", "that trainer takes all ids modulo the table's rows")
    elif command.data == "random":
        why = "neither --in_memory_binary_criteo_path nor --synthetic_multi_hot_criteo_path"
        yield Setting("data.kind", "random", why)
        yield Setting("data.dense", "normal", why)
        yield Differs(
            "random data: other numbers of the same distributions. There every rank repeats 10 batches (with --seed all "
            "ranks the same ones); here all samples of an epoch are different."
        )


def multi_hot_source(command: Command) -> Iterator[Line]:
    """``--synthetic_multi_hot_criteo_path``."""
    if command.data == "multi_hot":
        flag = "synthetic_multi_hot_criteo_path"
        yield Setting("data.kind", "packed", f"--{flag}")
        yield Setting("data.path", command[flag], f"--{flag}")
        yield Setting("data.multi_hot.kind", "files", f"--{flag}")


def dataset_name(command: Command) -> Iterator[Line]:
    """``--dataset_name``: which files there are; the parts are :func:`training_batches`' to name."""
    if "dataset_name" not in command.given:
        return
    if command.data == "random":
        yield Idle("--dataset_name", "it is about files, and the data are random")
    elif command.trainer == "mlperf":
        yield Idle("--dataset_name", "MLPerf's trainer reads day_0 to day_23 whatever it says")
    elif command.kaggle:
        yield Differs(
            "validation and test: that trainer trains on all of Criteo Kaggle and scores the second half of the same rows. "
            "Rows of two splits are refused here, so nothing is scored; for an honest score cut data.split, e.g. train: "
            "['train[:0.8]'], validation: ['train[0.8:0.9]'], test: ['train[0.9:]']."
        )


def training_batches(command: Command) -> Iterator[Line]:
    """``--limit_train_batches``, which counts in each epoch, and the parts to train on."""
    limit, epochs = command["limit_train_batches"], command["epochs"]
    if command.data == "random":
        batches = _RANDOM_BATCHES if limit is None else limit
        shown = f"{batches} batches x {command.ranks} ranks x --batch_size {command['batch_size']}"
        yield Setting("data.train_samples", command.samples(batches), shown)
        return
    parts = ["train"] if command.kaggle else [f"day_0..day_{len(TERABYTE_ROWS) - 2}"]
    shown = command.shown("dataset_name")
    if limit is not None and epochs > 1 and not command["shuffle_training_set"]:
        parts = _first_rows(command.samples(limit), (KAGGLE_ROWS,) if command.kaggle else TERABYTE_ROWS[:-1], parts)
        shown = f"the first --limit_train_batches {limit} of every epoch"
    elif limit is not None:
        yield Setting("train.max_steps", epochs * limit, f"--limit_train_batches {limit} x --epochs {epochs}")
        if epochs > 1:
            yield Differs(
                f"--limit_train_batches {limit} with --shuffle_training_set: that trainer takes the same {limit} shuffled "
                "batches in every epoch, here the steps are as many and the samples all different."
            )
    yield Setting("data.split.train", parts, shown)


def _first_rows(rows: int, of_parts: tuple[int, ...], everything: list[str]) -> list[str]:
    """The parts that hold the first rows of all, as entries of data.split."""
    ends = list(itertools.accumulate(of_parts))
    if rows >= ends[-1]:
        return everything
    last = bisect.bisect_left(ends, rows)
    name = "train" if len(of_parts) == 1 else f"day_{last}"
    cut = f"{name}[:{rows - (ends[last - 1] if last else 0)}]"
    return [*([f"day_0..day_{last - 1}"] if last else []), cut]


def validation_batches(command: Command) -> Iterator[Line]:
    """``--limit_val_batches``: which samples to validate on."""
    limit = command["limit_val_batches"]
    if not command.validates:
        if "limit_val_batches" in command.given:
            yield Idle("--limit_val_batches", "nothing is validated")
    elif command.data == "random":
        batches = _RANDOM_BATCHES if limit is None else limit
        yield Setting("data.validation_samples", command.evaluated(batches), f"{batches} batches")
    elif limit is None or (samples := command.evaluated(limit)) >= _HALF:
        yield Setting("data.split.validation", ["day_23[:0.5]"], "the first half of the last day")
    else:
        yield Setting("data.split.validation", [f"day_23[:{samples}]"], f"--limit_val_batches {limit} x all ranks")


def test_batches(command: Command) -> Iterator[Line]:
    """``--limit_test_batches``: which samples to test on."""
    limit = command["limit_test_batches"]
    if not command.tests:
        if "limit_test_batches" in command.given:
            yield Idle("--limit_test_batches", "nothing is tested")
    elif command.data == "random":
        batches = _RANDOM_BATCHES if limit is None else limit
        yield Setting("data.test_samples", command.evaluated(batches), f"{batches} batches")
    elif limit is None or (samples := command.evaluated(limit)) >= TERABYTE_ROWS[-1] - _HALF:
        yield Setting("data.split.test", ["day_23[0.5:]"], "the second half of the last day")
    else:
        yield Setting(
            "data.split.test",
            [f"day_23[{_HALF}:{_HALF + samples}]"],
            f"--limit_test_batches {limit} x all ranks, of Terabyte's day 23 with {TERABYTE_ROWS[-1]} rows",
        )


def rows(command: Command) -> Iterator[Line]:
    """``--num_embeddings_per_feature``."""
    flag = "num_embeddings_per_feature"
    if command[flag] is not None:
        yield Setting("data.rows", list(command[flag]), f"--{flag}")


def rows_of_all(command: Command) -> Iterator[Line]:
    """``--num_embeddings``, which counts where ``--num_embeddings_per_feature`` is not given."""
    flag = "num_embeddings"
    if command["num_embeddings_per_feature"] is None:
        yield Setting("data.rows", [command[flag]] * 26, command.shown(flag))
    elif flag in command.given:
        yield Idle(f"--{flag}", "--num_embeddings_per_feature overrides it")


def bags(command: Command) -> Iterator[Line]:
    """``--multi_hot_sizes``: multi-hot ids made from one-hot ones."""
    flag = "multi_hot_sizes"
    if command[flag] is None:
        return
    if command.data == "random":
        yield Setting("data.hotness", list(command[flag]), f"--{flag}")
        yield Differs("multi-hot ids of random data: all drawn anew, where there an id always brings the same others.")
        return
    yield Setting("data.multi_hot.kind", "mlperf", f"--{flag}")
    yield Setting("data.multi_hot.hotness", list(command[flag]), f"--{flag}")


def distribution(command: Command) -> Iterator[Line]:
    """``--multi_hot_distribution_type``."""
    flag = "multi_hot_distribution_type"
    if command[flag] is None:
        return
    if command["multi_hot_sizes"] is None:
        yield Idle(f"--{flag}", "it says nothing without --multi_hot_sizes")
    elif command.data == "random":
        yield Idle(f"--{flag}", "ids of random data are uniform here")
    else:
        yield Setting("data.multi_hot.distribution", command[flag], f"--{flag}")


def shuffle(command: Command) -> Iterator[Line]:
    """``--shuffle_training_set``: the order of the training samples."""
    flag = "shuffle_training_set"
    shuffled = command[flag] and command.data != "random"
    yield Setting("train.shuffle", shuffled, command.shown(flag) if command.data != "random" else "random data")
    if shuffled:
        yield Differs(
            "order: here every epoch has an order of its own, there one permutation serves all"
            + ("." if "seed" in command.given else ", and without --seed each rank draws another, so rows are missed.")
        )
    elif command[flag]:
        yield Idle(f"--{flag}", "random data have no order")


def seed(command: Command) -> Iterator[Line]:
    """``--seed``."""
    flag = "seed"
    value = 0 if command[flag] is None else command[flag]
    shown = f"--seed {value}" if flag in command.given else "no --seed: there every run differs, here none does"
    yield Setting("run.seed", value, shown)
    if command.data == "random":
        yield Setting("data.seed", value, shown)
