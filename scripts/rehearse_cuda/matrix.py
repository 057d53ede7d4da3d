"""Many rehearsals: the configurations, on real ranks and as one of many, and small models under every sharding type, kernel
and table optimizer that CUDA has; saves and resumes, too.

The ``sample`` is what takes minutes and meets every part of the code once; ``all`` is every combination.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scripts.rehearse_cuda.baseline import grown, read_counts, write_counts
from scripts.rehearse_cuda.job import Asked, Device, Outcome, Solo, run
from scripts.rehearse_cuda.losses import against_cpu
from scripts.rehearse_cuda.mixtures import (
    KERNELS,
    OPTIMIZERS,
    REPLICATED,
    TYPES,
    Pair,
    as_options,
    cut_tables,
    everything,
    offered,
    whole_tables,
)
from scripts.rehearse_cuda.report import Known, counts_line, grouped_violations, read_known, seen

AT_ONCE = 2  # half of a case's time is one process's imports
STEPS = 24
WARMUP = 12

SELDOM = ("--logging.every_steps", "1000")
_UNWATCHED = (
    *("--logging.tensorboard", "false", "--logging.progress", "false"),
    *("--data.validation_samples", "0", "--data.test_samples", "0", "--evaluation.test", "false"),
)
QUIET = (*SELDOM, *_UNWATCHED)
UNSAVED = ("--checkpoint.enabled", "false")
ENOUGH = ("--train.max_steps", str(STEPS))
# Of Criteo Kaggle, so that its configuration needs no files.
KAGGLE_ROWS = (
    "1460,583,10131227,2202608,305,24,12517,633,3,93145,5683,8351593,3194,27,14992,5461306,10,5652,2173,4,7046547,18,15,"
    "286181,105,142572"
)
CONFIGS = {
    "quickstart": ("--config", "configs/quickstart.yaml"),
    "criteo_kaggle": (
        *("--config", "configs/criteo_kaggle.yaml", "--data.kind", "random", "--data.rows", KAGGLE_ROWS),
        *("--data.train_samples", "1000000", "--checkpoint.best", "null"),
    ),
    "mlperf_dlrm_dot": ("--config", "configs/mlperf_dlrm_dot.yaml"),
    "mlperf_dlrm_dcnv2": ("--config", "configs/mlperf_dlrm_dcnv2.yaml"),
}
FEWER_IDS = {"mlperf_dlrm_dcnv2": ("--train.global_batch_size", "8192")}  # in mixtures; calls do not hang on them
SMALL = (
    *("--data.kind", "random", "--data.train_samples", "100000", "--data.rows", "100,5000,3000,400"),
    *("--data.num_dense", "3", "--model.bottom_mlp", "16,8", "--model.embedding_dim", "8", "--model.top_mlp", "16,1"),
    *("--train.global_batch_size", "512", "--optim.dense.kind", "sgd", "--optim.dense.lr", "0.01"),
)
LARGE = Device("rehearsed device of 192 GiB", gib=192.0)  # a whole MLPerf model on one
BOUNDLESS = Device("rehearsed device of 4 TiB", gib=4096.0)  # a mixture looks at what is called, not at what fits
_COPIES = ("--sharding.group_size=2",)
_OF_COPIES = (("table_wise", "fused"), ("row_wise", "fused"), ("column_wise", "fused"), REPLICATED)
LOSSES = "losses: "
SAMPLE = (
    *("quickstart, 1 rank", "quickstart, 2 ranks", "criteo_kaggle, 1 rank", "mlperf_dlrm_dcnv2, rank 0 of 8"),
    *(f"quickstart, 2 ranks, every kind, {optimizer}" for optimizer in OPTIMIZERS),
    *("mlperf_dlrm_dot, 2 ranks", "column_wise rowwise_adagrad", "saved and resumed, 2 ranks"),
    *(f"{LOSSES}quickstart, 2 rank(s)", f"{LOSSES}data_parallel rowwise_adagrad"),
    *("copies, 4 ranks, rowwise_adagrad", "copies, 4 ranks, saved and resumed", f"{LOSSES}copies, row_wise"),
)


@dataclass(frozen=True)
class Case:
    """A rehearsal with a name.

    Attributes:
        name: unique; asked: what to rehearse; then: what to train in the same folder after it.
        losses: whether it is the losses that are looked at, against those of the CPU.
        held: pairs of sharding type and kernel that one of its ranks has to hold.
    """

    name: str
    asked: Asked
    then: tuple[str, ...] = ()
    losses: bool = False
    held: frozenset[Pair] = frozenset()


def cases() -> Iterator[Case]:
    """Every case."""
    for name, words in CONFIGS.items():
        given = ("train", *words, *QUIET, *UNSAVED, *ENOUGH)
        device = LARGE if name.startswith("mlperf") else Device()
        yield Case(f"{name}, 1 rank", Asked(given, 1, device=device, warmup=WARMUP))
        yield Case(f"{name}, 2 ranks", Asked(given, 2, device=device, warmup=WARMUP))
        yield Case(f"{name}, rank 0 of 8", Asked(given, solo=Solo(0, 8, 8), warmup=WARMUP))
        yield Case(f"{name}, rank 9 of 16", Asked(given, solo=Solo(9, 16, 8), warmup=WARMUP))
    for optimizer in OPTIMIZERS:
        for kind in TYPES:
            if kind != REPLICATED[0] or offered([REPLICATED], optimizer):
                yield _small(f"{kind} {optimizer}", kind, optimizer)
        for kernel in KERNELS[1:]:
            yield _small(f"table_wise {optimizer} {kernel}", "table_wise", optimizer, f"--sharding.kernels={kernel}")
    for name, words in CONFIGS.items():
        for optimizer in OPTIMIZERS:
            yield from _mixtures(name, words, optimizer)
    yield from _with_losses()
    for ranks, text in ((1, "1 rank"), (2, "2 ranks")):
        words = ("train", *SMALL, *QUIET, "--checkpoint.every_steps", "12", "--run.name", "saved")
        asked = Asked((*words, *ENOUGH), ranks, warmup=WARMUP)
        yield Case(f"saved and resumed, {text}", asked, (*words, "--train.max_steps", "48", "--resume", "auto"))
    yield from _with_copies()


def _with_copies() -> Iterator[Case]:
    """Two copies of the tables on two ranks each, and on eight of sixteen."""
    for optimizer in OPTIMIZERS:
        pairs = offered([(kind, kernel) for kind, kernel in _OF_COPIES], optimizer)
        words = (*_small_words("table_wise", optimizer), *as_options(pairs), *SELDOM, *_COPIES)
        yield Case(f"copies, 4 ranks, {optimizer}", Asked(words, 4, warmup=WARMUP), held=frozenset(pairs))
    words = ("train", *CONFIGS["mlperf_dlrm_dcnv2"], *QUIET, *UNSAVED, *ENOUGH, "--sharding.group_size=8")
    yield Case("copies, mlperf_dlrm_dcnv2, rank 9 of 16", Asked(words, solo=Solo(9, 16, 8), warmup=WARMUP))
    apart = ("--sharding.sync_steps=5", "--sharding.inter_host_sync=true")
    words = ("train", *SMALL, *QUIET, *_COPIES, *apart, "--checkpoint.every_steps", "12", "--run.name", "saved")
    then = (*words, "--train.max_steps", "48", "--resume", "auto")
    yield Case("copies, 4 ranks, saved and resumed", Asked((*words, *ENOUGH), 4, warmup=WARMUP), then)
    for kind in TYPES:  # under SGD they train as one copy does
        yield Case(f"{LOSSES}copies, {kind}", Asked((*_small_words(kind, "sgd"), *_COPIES), 4), losses=True)


def _mixtures(config: str, words: tuple[str, ...], optimizer: str) -> Iterator[Case]:
    """Every sharding type and kernel, on one rank and on two; and on one of eight, which takes two plans."""
    has_all = 4 if (config, optimizer) == ("mlperf_dlrm_dcnv2", "adagrad") else 2  # of the kernels of whole tables
    with_whole, with_cut = Solo(has_all, 8, 8), Solo(2, 8, 8)
    settings = (
        ("1 rank, every kind", everything(optimizer), 1, None),
        ("2 ranks, every kind", everything(optimizer), 2, None),
        (f"rank {with_whole.rank} of 8, whole tables", whole_tables(), 1, with_whole),
        (f"rank {with_cut.rank} of 8, cut tables", cut_tables(optimizer), 1, with_cut),
    )
    chosen = (f"--optim.sparse={{kind: {optimizer}, lr: 0.05}}", "--sharding.host_memory_gib=4096")
    given = ("train", *words, *FEWER_IDS.get(config, ()), *QUIET, *UNSAVED, *ENOUGH, *chosen)
    for text, pairs, ranks, alone in settings:
        asked = Asked((*given, *as_options(pairs)), ranks, alone, device=BOUNDLESS, warmup=WARMUP)
        yield Case(f"{config}, {text}, {optimizer}", asked, held=frozenset(pairs))


def _with_losses() -> Iterator[Case]:
    for ranks in (1, 2):
        quickstart = ("train", *CONFIGS["quickstart"], *_UNWATCHED, *UNSAVED, *ENOUGH)
        yield Case(f"{LOSSES}quickstart, {ranks} rank(s)", Asked(quickstart, ranks), losses=True)
    for optimizer in OPTIMIZERS[:3]:  # the CPU has no Adam of tables
        for kind in TYPES:
            yield Case(f"{LOSSES}{kind} {optimizer}", Asked(_small_words(kind, optimizer), 2), losses=True)
        for kernel in KERNELS[1:]:
            words = (*_small_words("table_wise", optimizer), f"--sharding.kernels={kernel}")
            yield Case(f"{LOSSES}table_wise {optimizer} {kernel}", Asked(words, 2), losses=True)


def _small_words(kind: str, optimizer: str) -> tuple[str, ...]:
    options = (f"--sharding.types={kind}", f"--optim.sparse.kind={optimizer}", "--optim.sparse.lr=0.05")
    return ("train", *SMALL, *_UNWATCHED, *UNSAVED, *ENOUGH, *options)


def _small(name: str, kind: str, optimizer: str, *more: str) -> Case:
    return Case(name, Asked((*_small_words(kind, optimizer), *SELDOM, *more), 2, warmup=WARMUP))


def rehearse_matrix(
    which: str, only: str, json_file: Path | None, *, write: bool = False, at_once: int = AT_ONCE
) -> int:
    """Rehearse, print a line a case and what is wrong; exit code 1 if anything is.

    ``write``: the counts, if nothing is wrong; ``at_once``: cases beside each other.
    """
    wanted = [
        case for case in cases() if re.search(only, case.name) and (which == "all" or only or case.name in SAMPLE)
    ]
    known, written = read_known(), {"versions": None} if write else read_counts()
    found: list[dict[str, Any]] = []
    with ThreadPoolExecutor(at_once) as pool:
        for case, (outcome, wrong, seconds) in zip(
            wanted, pool.map(lambda case: _timed(case, known, written), wanted), strict=True
        ):
            entry = {"case": case.name, "asked": asdict(case.asked), "exit_code": outcome.exit_code, "seconds": seconds}
            found.append({**entry, "ranks": outcome.ranks, "violations": wrong})
            _tell(case, outcome, wrong, seconds)
            if json_file is not None:
                json_file.write_text(json.dumps(found, indent=1) + "\n")
    bad = [entry["case"] for entry in found if entry["exit_code"] or entry["violations"]]
    if which == "all" and not only:
        for entry in set(known) - seen((rank for result in found for rank in result["ranks"]), known):
            print(f"known.toml: no case shows {entry.function} any more")
    if write and not bad:  # how often a run that saves asks whether to hangs on the clock
        steady = {case.name for case in wanted if not (case.losses or case.then)}
        write_counts({entry["case"]: entry["ranks"] for entry in found if entry["case"] in steady})
    print(f"{len(found) - len(bad)} of {len(found)} cases are as they should be" + _listed(bad))
    return 1 if bad else 0


def _listed(names: Sequence[str]) -> str:
    return f"; not: {'; '.join(names)}" if names else ""


def _timed(case: Case, known: Sequence[Known], written: Mapping[str, Any]) -> tuple[Outcome, list[str], float]:
    began_s = time.monotonic()
    return *rehearse_case(case, known, written), time.monotonic() - began_s


def rehearse_case(case: Case, known: Sequence[Known], written: Mapping[str, Any]) -> tuple[Outcome, list[str]]:
    """Run it, and what follows it, and say what is wrong."""
    if case.losses:
        return against_cpu(case.asked)
    outcome = _run_in_turn(case) if case.then else run(case.asked, quiet=True)
    wrong = [*grouped_violations(outcome.ranks, known), *grown(case.name, outcome.ranks, written)]
    return outcome, [*wrong, *not_held(case, outcome.ranks)]


def not_held(case: Case, ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The pairs of sharding type and kernel that the case is to show and that no rank has had."""
    had = {tuple(pair) for rank in ranks for pair in rank["held"]}
    return [f"no rank held a table that is {kind} with kernel {kernel}" for kind, kernel in sorted(case.held - had)]


def _run_in_turn(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="rehearsal-run-") as folder:
        own = ("--run.dir", folder)
        first = run(replace(case.asked, words=(*case.asked.words, *own)), quiet=True)
        if first.exit_code:
            return first
        return run(replace(case.asked, words=(*case.then, *own), warmup=STEPS + WARMUP), quiet=True)


def _tell(case: Case, outcome: Outcome, wrong: Sequence[str], seconds: float) -> None:
    if outcome.exit_code:
        print(f"{case.name}: FAILED after {seconds:.0f} s\n{outcome.output[-4000:]}", flush=True)
        return
    said = "computed" if case.losses else counts_line(outcome.ranks[0])
    print(f"{case.name}: {said} ({seconds:.0f} s)", flush=True)
    for text in wrong:
        print(f"  WRONG {text}", flush=True)
