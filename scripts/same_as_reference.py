"""Train with facebookresearch/dlrm's torchrec trainer and here, from the same weights, and compare the weights at the end.

    python -m scripts.same_as_reference DLRM [--only REGEX]

DLRM is a clone of facebookresearch/dlrm (tried: 090956e). Its trainer runs unchanged, on two CPU ranks, with the packages
of this environment. A case is a command line of it: ``import-flags`` makes the configuration, ``checkpoint import`` brings
its initial weights over. The data are made up: 24 days of 90 to 113 rows, whose ids lie beyond the tables. For each case:
the largest change of a weight by training there, and the largest difference of a weight after training here.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROWS = ",".join(str(20 + i) for i in range(26))
HOTNESS = ",".join(str(1 + i % 3) for i in range(26))
MODEL = ["--embedding_dim", "8", "--dense_arch_layer_sizes", "16,8", "--over_arch_layer_sizes", "16,1"]
PROJECTION = [
    *("--interaction_type", "projection", "--interaction_branch1_layer_sizes", "16"),
    *("--interaction_branch2_layer_sizes", "16"),
]
MULTI_HOT = [
    *("--num_embeddings_per_feature", ROWS, "--multi_hot_sizes", HOTNESS, "--multi_hot_distribution_type", "uniform"),
]
CASES = {
    "dot, SGD": ["--num_embeddings", "40", "--learning_rate", "0.5", "--drop_last_training_batch"],
    "dot, SGD, with the last 19 rows": ["--num_embeddings", "40", "--learning_rate", "0.5"],
    "dcn, Adagrad, warm-up and decay": [
        *(
            "--num_embeddings",
            "40",
            "--adagrad",
            "--eps",
            "1e-2",
            "--learning_rate",
            "0.05",
            "--interaction_type",
            "dcn",
        ),
        *("--dcn_num_layers", "2", "--dcn_low_rank_dim", "4", "--lr_warmup_steps", "10", "--lr_decay_start", "10"),
        *("--lr_decay_steps", "100", "--limit_train_batches", "30", "--shuffle_batches", "--mmap_mode"),
    ],
    "projection, multi-hot, SGD, 9 epochs of 2 batches": [
        *(*MULTI_HOT, *PROJECTION, "--learning_rate", "0.5", "--limit_train_batches", "2", "--epochs", "9"),
    ],
}


def main() -> None:
    """Run the cases and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dlrm", type=Path)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name this matches")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_days(Path(folder, "days"))
        data = ["--in_memory_binary_criteo_path", f"{folder}/days", "--batch_size", "16", *MODEL]
        for name, flags in CASES.items():
            if re.search(given.only, name):
                moved, off, where = compare([*data, *flags], given.dlrm.resolve() / "torchrec_dlrm", Path(folder))
                print(
                    f"{name}: weights moved by at most {moved:.3g}, differ by at most {off:.1e} ({where})", flush=True
                )


def make_days(folder: Path) -> None:
    """24 days of packed one-hot files."""
    import numpy as np

    draw = np.random.default_rng(5)
    folder.mkdir()
    for day in range(24):
        rows = 90 + day
        np.save(folder / f"day_{day}_dense.npy", draw.normal(size=(rows, 13)).astype(np.float32))
        np.save(folder / f"day_{day}_sparse.npy", draw.integers(0, 1000, (rows, 26)).astype(np.int32))
        np.save(folder / f"day_{day}_labels.npy", draw.integers(0, 2, (rows, 1)).astype(np.int32))


def compare(flags: list[str], reference: Path, folder: Path) -> tuple[float, float, str]:
    """Train in both; (largest change there, largest difference here, of which tensor)."""
    from safetensors.torch import load_file

    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run([*ranks, __file__, "--in-the-reference", str(reference), str(folder), *flags], cwd=reference)
    config = folder / "moved.yaml"
    config.write_text(ours(["import-flags", "--ranks", "2", "--", *flags]))
    for when in ("before", "after"):
        imported = f"{folder}/{when}.{os.urandom(4).hex()}"
        ours(["checkpoint", "import", f"{folder}/{when}.pt", "--output", imported, "--config", str(config)])
        ours(["checkpoint", "export", imported, f"{folder}/{when}.safetensors", "--overwrite"])
        if when == "before":
            begin = imported
    train = [
        "train",
        "--config",
        str(config),
        "--run.dir",
        str(folder),
        "--run.overwrite",
        "--logging.progress",
        "false",
    ]
    train += [
        "--resume.checkpoint",
        begin,
        "--resume.strict",
        "false",
    ]  # Adagrad's sums are not brought over: they are 0
    run([*ranks, str(ROOT / "dlrm_main.py"), *train])
    ours(["checkpoint", "export", f"{folder}/run", f"{folder}/here.safetensors", "--overwrite"])
    before, there, here = (load_file(folder / f"{name}.safetensors") for name in ("before", "after", "here"))
    moved = max(float((there[name] - before[name]).abs().max()) for name in there)
    off, where = max((float((there[name] - here[name]).abs().max()), name) for name in there)
    return moved, off, where


def ours(words: list[str]) -> str:
    """What ``dlrm_main.py <words>`` prints."""
    return run([str(ROOT / "dlrm_main.py"), *words])


def run(words: list[str], cwd: Path = ROOT) -> str:
    """Run python; its standard output."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words[:4])} ... ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def in_the_reference(reference: str, folder: str, flags: list[str]) -> None:
    """A rank of the reference's trainer: it saves its weights before and after training, and is not changed otherwise."""
    import torch
    from torch import distributed

    sys.path.insert(0, reference)
    import dlrm_main as trainer  # type: ignore[import-not-found]  # the reference's

    train = trainer.train_val_test

    def train_between_two_saves(args: Any, model: Any, *rest: Any) -> Any:
        save("before", model)
        result = train(args, model, *rest)
        save("after", model)
        return result

    def save(when: str, model: Any) -> None:
        first = distributed.get_rank() == 0
        weights = {}
        for name, value in model.state_dict().items():
            whole = value
            if hasattr(value, "gather") and hasattr(value, "local_shards"):
                whole = torch.empty(value.size()) if first else None
                value.gather(0, whole)
            weights[name] = whole
        if first:
            torch.save(weights, f"{folder}/{when}.pt")

    trainer.train_val_test = train_between_two_saves
    trainer.main(flags)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-the-reference"]:
        in_the_reference(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main()
