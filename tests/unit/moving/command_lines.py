"""Command lines of the two trainers' READMEs, as a shell passes them on, with what each has to become, worked by hand.

The shell has done its arithmetic: of 4,195,197,692 training samples 1/20 is 3200 batches of 65,536 or 12,802 of 16,384, and
1/40 is 1600 batches of 65,536. Where a README uses a variable that it does not set in that block, its value is that of the
block's heading (GLOBAL_BATCH_SIZE 65536).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ROWS_40M = (
    "40000000,39060,17295,7424,20265,3,7122,1543,63,40000000,3067956,405282,10,2209,11938,155,4,976,14,40000000,40000000,"
    "40000000,590152,12973,108,36"
)
ROWS_ALL = (
    "45833188,36746,17245,7413,20243,3,7114,1441,62,29275261,1572176,345138,10,2209,11267,128,4,974,14,48937457,11316796,"
    "40094537,452104,12606,104,35"
)
HOTNESS = "3,2,1,2,6,1,1,1,1,7,3,8,1,6,9,5,1,1,1,12,100,27,10,3,1,1"
TORCHX = ("torchx", "run", "-s", "local_cwd", "dist.ddp", "-j", "1x8", "--script", "dlrm_main.py", "--")
AWS = (
    *("torchx", "run", "--scheduler", "slurm", "--scheduler_args", "partition=train,time=5:00:00"),
    *("aws_component.py:run_dlrm_main", "--num_trainers=8", "--"),
)
SIZES = ("--dense_arch_layer_sizes", "512,256,128", "--over_arch_layer_sizes", "1024,1024,512,256,1")
BIG = ("--embedding_dim", "128", *SIZES)
TABLE = ("--num_embeddings_per_feature", ROWS_40M, "--embedding_dim", "128", "--pin_memory", *SIZES, "--epochs", "1")
MLPERF_TABLE = (
    *("--num_embeddings_per_feature", ROWS_ALL, "--embedding_dim", "128", "--pin_memory", *SIZES, "--epochs", "1"),
    "--shuffle_batches",
)
DCN = (
    "--interaction_type=dcn",
    "--dcn_num_layers=3",
    "--dcn_low_rank_dim=512",
    "--adagrad",
    "--learning_rate",
    "0.005",
)


def benchmark(data: tuple[str, ...], every: str, batch_size: str, *more: str) -> tuple[str, ...]:
    """The words that the benchmarks' blocks share."""
    return (
        *(*TORCHX, *BIG, *data, "--num_embeddings_per_feature", ROWS_40M, "--validation_freq_within_epoch", every),
        *("--epochs", "1", "--pin_memory", "--mmap_mode", "--batch_size", batch_size, *more),
    )


@dataclass(frozen=True)
class Known:
    """A command line; the ranks, where it does not say them; and options of the configuration that it becomes."""

    words: tuple[str, ...]
    becomes: dict[str, Any] = field(default_factory=dict)
    ranks: int | None = None


def numbers(text: str) -> tuple[int, ...]:
    """``1,2`` as numbers."""
    return tuple(map(int, text.split(",")))


_BIG_MODEL = {
    "model.embedding_dim": 128,
    "model.bottom_mlp": (512, 256, 128),
    "model.top_mlp": (1024, 1024, 512, 256, 1),
    "data.rows": numbers(ROWS_40M),
}
_DAYS = {
    "data.kind": "packed",
    "data.split.train": ("day_0..day_22",),
    "data.split.validation": ("day_23[:0.5]",),
    "data.split.test": ("day_23[0.5:]",),
    "train.shuffle": False,
    "train.drop_last": False,
    "evaluation.test": True,
}


def _rates(kind: str, lr: float) -> dict[str, Any]:
    eps = {f"optim.{part}.eps": 1e-8 for part in ("dense", "sparse")} if kind == "adagrad" else {}
    return eps | {f"optim.{part}.{key}": v for part in ("dense", "sparse") for key, v in (("kind", kind), ("lr", lr))}


_V2 = _BIG_MODEL | _DAYS | _rates("adagrad", 0.005) | {
    "train.global_batch_size": 65536,
    "evaluation.every_steps": 3200,
    "model.interaction.kind": "dcn",
    "model.interaction.layers": 3,
    "model.interaction.rank": 512,
}  # fmt: skip
_FILES = {"data.path": "multi_hot", "data.multi_hot.kind": "files", "data.bad_rows": "error"}
_MADE = {
    "data.path": "one_hot",
    "data.bad_rows": "hash",
    "data.multi_hot.kind": "mlperf",
    "data.multi_hot.hotness": numbers(HOTNESS),
    "data.multi_hot.distribution": "uniform",
    "data.multi_hot.seed": 0,
}
_DEFAULTS = _rates("sgd", 15.0) | {
    "data.kind": "random",
    "data.rows": (100_000,) * 26,
    "data.hotness": (1,),
    "data.dense": "normal",
    "model.embedding_dim": 64,
    "model.bottom_mlp": (512, 256, 64),
    "model.top_mlp": (512, 512, 256, 1),
    "model.interaction.kind": "dot",
    "optim.schedule.warmup_steps": 0,
    "optim.schedule.decay_steps": None,
    "train.epochs": 1,
}
_ON_THE_FLY = ("--multi_hot_distribution_type", "uniform", f"--multi_hot_sizes={HOTNESS}")

FACEBOOKRESEARCH = {
    "torchx on this host": Known(
        ("torchx", "run", "-s", "local_cwd", "dist.ddp", "-j", "1x2", "--script", "dlrm_main.py"),
        # 10 batches of 32 samples on each of two ranks
        _DEFAULTS | {"train.global_batch_size": 64, "data.train_samples": 640, "data.validation_samples": 640},
    ),
    "torchx on slurm": Known(
        ("torchx", "run", "-s", "slurm", "dist.ddp", "-j", "1x8", "--script", "dlrm_main.py"),
        _DEFAULTS | {"train.global_batch_size": 256, "data.train_samples": 2560, "data.test_samples": 2560},
    ),
    "torchrun": Known(
        (
            *("torchrun", "--nnodes", "1", "--nproc_per_node", "2", "--rdzv_backend", "c10d"),
            *("--rdzv_endpoint", "localhost", "--rdzv_id", "54321", "--role", "trainer", "dlrm_main.py"),
        ),
        _DEFAULTS | {"train.global_batch_size": 64},
    ),
    "results, row 1": Known(
        (*TABLE, "--batch_size", "256", "--learning_rate", "1.0"),
        _BIG_MODEL | _rates("sgd", 1.0) | {"train.global_batch_size": 2048, "model.interaction.kind": "dot"},
        ranks=8,
    ),
    "results, row 2": Known(
        (*TABLE, "--batch_size", "2048", "--learning_rate", "0.006", "--adagrad"),
        _BIG_MODEL | _rates("adagrad", 0.006) | {"train.global_batch_size": 16384, "model.interaction.kind": "dot"},
        ranks=8,
    ),
    "results, row 3": Known(
        (*TABLE, "--batch_size", "2048", "--learning_rate", "0.006", "--adagrad", "--interaction_type=dcn"),
        _BIG_MODEL | _rates("adagrad", 0.006)
        | {"train.global_batch_size": 16384, "model.interaction.kind": "dcn", "model.interaction.rank": 512},
        ranks=8,
    ),
    "results, row 4": Known(
        (*TABLE, "--batch_size", "16384", "--learning_rate", "0.006", "--adagrad", "--interaction_type=dcn"),
        _BIG_MODEL | _rates("adagrad", 0.006) | {"train.global_batch_size": 131072, "data.train_samples": 1310720},
        ranks=8,
    ),
    "aws component": Known(
        (
            *(*AWS, "--pin_memory", "--batch_size", "2048", "--epochs", "1", "--num_embeddings_per_feature", ROWS_ALL),
            *(*BIG, "--in_memory_binary_criteo_path", "one_hot", "--learning_rate", "15.0"),
        ),
        _BIG_MODEL | _DAYS | _rates("sgd", 15.0)
        | {"data.rows": numbers(ROWS_ALL), "train.global_batch_size": 16384, "data.bad_rows": "hash"},
    ),
    "benchmark v2": Known(
        benchmark(("--synthetic_multi_hot_criteo_path", "multi_hot"), "3200", "8192", *DCN), _V2 | _FILES
    ),
    "benchmark v2 on the fly": Known(
        benchmark(("--in_memory_binary_criteo_path", "one_hot"), "3200", "8192", *DCN, *_ON_THE_FLY), _V2 | _MADE
    ),
    "benchmark v1": Known(
        benchmark(("--in_memory_binary_criteo_path", "one_hot"), "12802", "2048", "--learning_rate", "1.0"),
        _BIG_MODEL | _DAYS | _rates("sgd", 1.0)
        | {"train.global_batch_size": 16384, "evaluation.every_steps": 12802, "data.multi_hot.kind": "one_hot"},
    ),
    "kaggle": Known(
        (
            *(*TORCHX, "--in_memory_binary_criteo_path", "one_hot", "--pin_memory", "--mmap_mode", "--batch_size", "2048"),
            *("--learning_rate", "0.5", "--dataset_name", "criteo_kaggle", "--num_embeddings_per_feature", ROWS_40M),
            *("--embedding_dim", "128", "--over_arch_layer_sizes", "1024,1024,512,256,1", "--dense_arch_layer_sizes"),
            *("512,256,128", "--epochs", "1", "--validation_freq_within_epoch", "12802"),
        ),
        # its validation and test rows are training rows: none here
        _BIG_MODEL | _rates("sgd", 0.5)
        | {"train.global_batch_size": 16384, "data.split.train": ("train",), "data.split.validation": ()}
        | {"data.split.test": (), "evaluation.every_steps": None, "evaluation.test": False},
    ),
}  # fmt: skip

MLPERF = {
    name: FACEBOOKRESEARCH[name] for name in ("torchx on this host", "torchx on slurm", "torchrun", "benchmark v2")
} | {
    "results, row 1": Known(
        (*MLPERF_TABLE, "--batch_size", "256", "--learning_rate", "1.0"),
        _rates("sgd", 1.0) | {"data.rows": numbers(ROWS_ALL), "train.global_batch_size": 2048},
        ranks=8,
    ),
    "results, row 5": Known(
        (*MLPERF_TABLE, "--batch_size", "8192", "--learning_rate", "15.0"),
        _rates("sgd", 15.0) | {"train.global_batch_size": 65536},
        ranks=8,
    ),
    "benchmark v2 on the fly": Known(
        benchmark(("--in_memory_binary_criteo_path", "one_hot"), "1600", "8192", *DCN, *_ON_THE_FLY),
        _V2 | _MADE | {"evaluation.every_steps": 1600},
    ),
}

_CHANGED = ("--change_lr", "--lr_change_point", "0.80", "--lr_after_change_point", "0.20")
REFUSED_THERE = {  # MLPerf's README still has flags that its trainer no longer knows
    "results, row 2": (
        *(*MLPERF_TABLE, "--batch_size", "16384", "--learning_rate", "15.0"),
        *("--change_lr", "--lr_change_point", "0.65", "--lr_after_change_point", "0.035"),
    ),
    "results, row 3": (*MLPERF_TABLE, "--batch_size", "4096", "--learning_rate", "15.0", *_CHANGED),
    "results, row 4": (*MLPERF_TABLE, "--batch_size", "2048", "--learning_rate", "15.0", *_CHANGED),
    "aws component": (
        *(
            *AWS,
            "--pin_memory",
            "--batch_size",
            "2048",
            "--epochs",
            "1",
            "--num_embeddings_per_feature",
            ROWS_ALL,
            *BIG,
        ),
        *("--in_memory_binary_criteo_path", "one_hot", "--learning_rate", "15.0", "--shuffle_batches", *_CHANGED),
    ),
}
