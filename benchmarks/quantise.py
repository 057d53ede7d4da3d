#!/usr/bin/env python3
"""What fewer bits cost an export: size, quality and speed, on planted data and on Criteo's sample.

    python benchmarks/quantise.py                        both, into benchmarks/results/quantise.json; some minutes
    python benchmarks/quantise.py --only planted --work /tmp/quantise

Planted data: the quickstart model with tables of 32 columns, so that int8 rows are 128 / 36 = 3.56 times smaller. Criteo's
sample: configs/criteo_sample.yaml as it is (16 columns: 64 / 20 = 3.2 times); it is left out where the file is not there
(CRITEO_SAMPLE names it elsewhere). Each model is trained, exported and compared: tables in fp32, fp16, int8 and int4, the
dense part in fp32, bf16 and int8, and the smallest mix of tables whose log loss on validation samples rises by 0.0002 at
most. Figures are of the test samples. Runs and exports stay in --work; what is there is not made again.

Speed is that of one thread, each in turn with the export as it is; of a busy machine nothing is to be learned from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed

from benchmarks.seeds import missing_file  # noqa: E402

BUDGET = 0.0002
SMALLER, WITHIN = 3.5, 0.0002
MODELS = {
    "planted": (
        ROOT / "configs/quickstart.yaml",
        ["--model.embedding_dim=32", "--model.bottom_mlp=128,64,32"],
    ),
    "criteo_sample": (ROOT / "configs/criteo_sample.yaml", []),
}


def command(*words: str) -> None:
    """Run ``dlrm_main.py``; its output is the terminal's."""
    print("$ dlrm_main.py", *words, flush=True)
    subprocess.run([sys.executable, str(ROOT / "dlrm_main.py"), *words], check=True, cwd=ROOT)


def trained_export(name: str, config: Path, options: list[str], work: Path) -> tuple[Path, Path]:
    """The run and its export, made if they are not there."""
    run, export = work / "runs" / name, work / f"{name}.export"
    if not (run / "summary.json").exists():
        quiet = ["--logging.progress=false", "--logging.tensorboard=false", "--run.overwrite=true"]
        command("train", f"--config={config}", f"--run.dir={work / 'runs'}", f"--run.name={name}", *options, *quiet)
    if not export.exists():
        command("export", str(run), str(export))
    return run, export


def measured(name: str, run: Path, export: Path, work: Path) -> dict[str, Any]:
    """The table of a model and what the budget chose, as ``quantise`` writes them."""
    data, results = f"--data_from={run / 'config.yaml'}", work / f"{name}.json"
    smaller = f"--output={work / f'{name}.smaller'}"
    command(
        "quantise", str(export), f"--budget={BUDGET}", "--compare", data, f"--results={results}", smaller, "--overwrite"
    )
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def verdict(found: dict[str, Any]) -> tuple[str, bool]:
    """How much smaller int8 tables are and what they cost; whether that is 3.5 times, and within 0.0002."""
    rows = {(row["tables"], row["dense"]): row for row in found["rows"]}
    plain, lowered = rows["fp32", "fp32"], rows["int8", "fp32"]
    ratio, difference = plain["table_bytes"] / lowered["table_bytes"], lowered["log_loss_difference"]
    met = ratio >= SMALLER and abs(difference) <= WITHIN
    return f"int8 tables {ratio:.2f} times smaller, log loss {difference:+.6f}", met


def main() -> int:
    """Train what is missing, measure, and keep the figures; 1 if int8 tables of the planted model fall short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(MODELS), action="append")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/quantise")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/quantise.json")
    arguments = parser.parse_args()
    kept: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    failed = False
    for name in arguments.only or MODELS:
        config, options = MODELS[name]
        if "CRITEO_SAMPLE" in os.environ and name == "criteo_sample":
            options = [*options, "--data.paths", os.environ["CRITEO_SAMPLE"]]
        if (missing := missing_file(config, options)) is not None:
            print(f"{name}: skipped, {missing} is not there")
            continue
        run, export = trained_export(name, config, options, arguments.work.resolve())
        kept[name] = measured(name, run, export, arguments.work.resolve())
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        arguments.results.write_text(json.dumps(kept, indent=1) + "\n")
        said, met = verdict(kept[name])
        print(f"{name}: {said}", flush=True)
        failed = failed or (name == "planted" and not met)  # rows of 16 columns cannot be that much smaller
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
