"""Many ids through a table of few rows (docs/tables.md): memory, AUC, and state through kills and changes of ranks.

    .venv/bin/python -m benchmarks.growing_table [--parts quality,kills] [--save benchmarks/results/growing_table.json]

Planted data with one feature of very many ids, which tells most of a click, and two of few.

- ``quality``: trained once with a growing table, once with a row for every id, and once with no more than two rows for all
  of them, on the same samples: test AUC, samples/s, and the resident memory of the process, sampled all along; how many
  distinct ids the training samples have.
- ``kills``: --killed samples. A run on one rank is killed (SIGKILL) after a checkpoint, resumed and trained to the end: its
  last checkpoint against that of a run left alone, every tensor to the bit. Another is killed twice and goes on with two
  ranks and then with four: its id map against that of the run left alone, to the bit, and its weights by their largest
  difference. What one, two and four ranks load and save again against what they have loaded, to the bit.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.config import load_config
from dlrm.config.data import PlantedData
from dlrm.data.build import build_dataset
from dlrm.schema import Schema
from dlrm.train.checkpointing.state import after_load, engine_tensors
from dlrm.train.engine import build_engine
from tests.support.elastic_job import (
    ROOT,
    ElasticJob,
    await_all_gone,
    await_true,
    committed_steps,
    differing_tensors,
    kill,
    saved_tensors,
)
from tests.support.ranks import run_ranks
from tests.support.training import this_world

LONGEST_S = 3600.0
_SAMPLED_EVERY_S = 0.5
_CHUNK = 1 << 18
_RESHARDED = (1, 2, 4)
_SEED = 1  # of the hidden model, in which the feature of many ids weighs most


def options_of(arguments: argparse.Namespace, samples: int, embedding: str = "") -> list[str]:
    """Options of a training."""
    return [
        f"--data.rows={arguments.ids},1000,50",
        f"--data.zipf_exponent={arguments.exponent}",
        f"--data.train_samples={samples}",
        f"--data.test_samples={arguments.test}",
        *("--data.num_dense=1", "--data.validation_samples=0"),
        f"--data.seed={_SEED}",
        f"--train.global_batch_size={arguments.batch}",
        *("--model.embedding_dim=8", "--model.bottom_mlp=16,8", "--model.top_mlp=16,1"),
        *("--logging.tensorboard=false", "--logging.progress=false", "--distributed.threads_per_rank=1"),
        *([f"--model.tables.cat_0.embedding={embedding}"] if embedding else []),
    ]


def growing(rows: int) -> str:
    """The embedding of the feature with many ids."""
    return f"{{kind: growing, rows: {rows}, eviction: {{kind: lfu}}}}"


def measure_quality(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Any]]:
    """AUC, speed and memory with a growing table and without."""
    kinds = {"growing": growing(arguments.rows), "a row for every id": "", "two rows for all": growing(2)}
    for kind, embedding in kinds.items():
        if not re.search(arguments.kinds, kind):
            continue
        options = options_of(arguments, arguments.samples, embedding)
        yield f"quality: {kind}", _trained(options, work / kind.replace(" ", "_"))
    if re.search(arguments.kinds, "distinct ids"):
        yield "quality: distinct ids", distinct_ids(arguments)


def distinct_ids(arguments: argparse.Namespace) -> int:
    """Of the first feature in the training samples, counted."""
    config = load_config(None, options_of(arguments, arguments.samples))
    source, seen = build_dataset(config.data).train, np.zeros(arguments.ids, bool)
    for start in range(0, source.num_samples, _CHUNK):
        samples = source.read(torch.arange(start, min(start + _CHUNK, source.num_samples)))
        seen[samples.ids_BS[:, 0].numpy()] = True
    return int(seen.sum())


def _trained(options: list[str], folder: Path) -> dict[str, Any]:
    """Train in a process of its own, whose memory is sampled."""
    folder.mkdir(parents=True)
    words = [sys.executable, "dlrm_main.py", "train", *options, f"--run.dir={folder}", "--run.name=run"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([*words, "--checkpoint.enabled=false"], cwd=ROOT, stdout=output, stderr=output)
    resident = []
    metrics = folder / "run" / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and metrics.stat().st_size:  # training has begun
            resident.append(psutil.Process(process.pid).memory_info().rss)
        time.sleep(_SAMPLED_EVERY_S)
    if process.returncode:
        raise RuntimeError((folder / "output").read_text())
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return {
        "auc": summary["test"]["auc"],
        "best reachable auc": summary["best_reachable_auc"],
        "samples/s": round(summary["samples_per_s"]),
        "resident MiB": _flatness([size / 2**20 for size in resident]),
    }


def _flatness(resident_mib: list[float]) -> dict[str, float]:
    """Medians of the quarters of the run, and the most."""
    quarters = np.array_split(np.array(resident_mib), 4) if len(resident_mib) >= 4 else [np.array(resident_mib)] * 4
    names = ("first quarter", "second", "third", "last")
    medians = {name: round(float(np.median(of)), 1) for name, of in zip(names, quarters, strict=True) if len(of)}
    return {**medians, "most": round(max(resident_mib, default=0.0), 1), "samples": len(resident_mib)}


def measure_kills(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Any]]:
    """What becomes of the state by kills, and by other numbers of ranks."""
    options = options_of(arguments, arguments.killed, growing(arguments.rows))
    steps = -(-arguments.killed // arguments.batch)
    saved_at = [steps // 3, 2 * steps // 3]
    options += [f"--checkpoint.every_steps={saved_at[0]}", "--checkpoint.keep=20"]
    alone = _run(options, work / "alone", [1])
    resumed = _run(options, work / "resumed", [1, 1])
    resharded = _run(options, work / "resharded", list(_RESHARDED))
    id_map = [name for name in alone if name.startswith("growing.")]
    found = {
        "steps": steps,
        "killed after steps": saved_at,
        "tensors": len(alone),
        "resumed on one rank: tensors that differ": differing_tensors(alone, resumed),
        "one, two, four ranks: tensors of the id map that differ": [
            name for name in differing_tensors(alone, resharded) if name in id_map
        ],
        "one, two, four ranks: largest difference of a weight": max(
            float((alone[name] - resharded[name]).abs().max()) for name in alone if name.endswith(".weight")
        ),
        "ids with a row": int((alone["growing.cat_0.ids"] >= 0).sum()),
    }
    for name, value in found.items():
        yield f"kills: {name}", value
    checkpoints = work / "resharded" / "run" / "checkpoints"
    for step in committed_steps(checkpoints)[:2]:
        name = f"step_{step:08d}"
        shutil.copytree(checkpoints / name, work / str(step) / name)
        before = saved_tensors(checkpoints / name)
        for ranks in _RESHARDED:
            to = work / f"{step}_{ranks}"
            run_ranks(_save_again, ranks, options, str(work / str(step)), str(to), timeout_s=LONGEST_S)
            what = f"kills: step {step} loaded and saved again by {ranks} rank(s): tensors that differ"
            yield what, differing_tensors(before, saved_tensors(to / name))


def _run(options: list[str], folder: Path, ranks: list[int]) -> dict[str, torch.Tensor]:
    """The last checkpoint of a run that is killed after its first checkpoint on each number of ranks but the last."""
    words = [*options, f"--run.dir={folder}", "--run.name=run", "--resume=auto"]
    checkpoints = folder / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for number, count in enumerate(ranks, start=1):
        with ElasticJob(words, ranks=count, log=folder / "log", output=folder / "output") as job:
            if number == len(ranks):
                if job.wait(LONGEST_S):
                    raise RuntimeError((folder / "output").read_text())
                continue
            await_true(lambda: len(committed_steps(checkpoints)) >= number or job.ended, LONGEST_S, "a checkpoint")  # noqa: B023
            if job.ended:
                raise RuntimeError((folder / "output").read_text())
            workers = job.workers()
            kill(job.process.pid)
            for pid in workers:
                kill(pid)
            await_all_gone(workers, LONGEST_S)
    return saved_tensors(checkpoints / f"step_{committed_steps(checkpoints)[-1]:08d}")


def _save_again(rank: int, world_size: int, options: list[str], source: str, to: str) -> None:
    """Load the checkpoint in a folder and save what was loaded into another."""
    config, world = load_config(None, options), this_world()
    assert isinstance(config.data, PlantedData)
    engine = build_engine(config, Schema.numbered(config.data.num_dense, config.data.rows), world)
    found = load_newest(source, engine_tensors(engine), world.collectives)
    after_load(engine)
    saver = AsyncSaver(to, world.collectives)
    saver.save(found.checkpoint.step, engine_tensors(engine), {})
    saver.wait()


def measured(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Any]]:
    """What was measured, and the figures."""
    parts = {"quality": measure_quality, "kills": measure_kills}
    for part in arguments.parts.split(","):
        sizes = {name: getattr(arguments, name) for name in ("ids", "exponent", "rows", "batch", "test")}
        yield f"{part}: sizes", {**sizes, "samples": arguments.samples if part == "quality" else arguments.killed}
        yield from parts[part](arguments, work / part)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--parts", default="quality,kills")
    found.add_argument("--kinds", default="", metavar="REGEX", help="of quality: growing, a row for every id, ...")
    found.add_argument("--samples", type=int, default=19_000_000, help="to train on")
    found.add_argument("--killed", type=int, default=3_000_000, help="of them, by the runs that are killed")
    found.add_argument("--test", type=int, default=500_000, help="samples to score")
    found.add_argument("--ids", type=int, default=30_000_000, help="that may be drawn")
    found.add_argument("--exponent", type=float, default=0.7, help="of Zipf's law, by which they are drawn")
    found.add_argument("--rows", type=int, default=1_000_000, help="of the growing table")
    found.add_argument("--batch", type=int, default=16_384, help="samples of a step")
    found.add_argument("--work", type=Path, help="folder for the runs; a temporary one if left out")
    found.add_argument("--save", type=Path, help="write the figures as JSON; others that are there already stay")
    return found


def main() -> None:
    arguments = parser().parse_args()
    found = json.loads(arguments.save.read_text()) if arguments.save and arguments.save.exists() else {}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for name, figures in measured(arguments, Path(folder)):
            found[name] = figures
            print(f"{name}: {figures}", flush=True)
            if arguments.save:
                arguments.save.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
