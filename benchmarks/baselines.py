#!/usr/bin/env python3
"""Other learners on the rows that a configuration trains, validates and tests on: LightGBM and logistic regression.

    python -m benchmarks.baselines --config configs/criteo_sample.yaml --output runs/baselines.json
    python -m benchmarks.baselines --config configs/quickstart.yaml --output runs/b.json --data.train_samples 100000

Both get what the data section gives a model: dense features and ids of the same training, validation and test rows. Their
settings are chosen on validation rows alone, and the test rows are scored once, with what was chosen:

- LightGBM (Ke et al., NeurIPS 2017): draws of its settings, each early-stopped on validation log loss; the draw with the
  best validation AUC is trained with --seeds seeds, whose mean probability is scored as well. A draw decides among other
  things whether ids are LightGBM's own categories, or become the click rate and the number of the training rows that have
  the id, smoothed towards the mean (Micci-Barreca, SIGKDD Explorations 2001; training rows by the other folds of five:
  none sees its own label).
- Logistic regression (scikit-learn, L-BFGS) on standardised dense features and one-hot ids, its C from a grid. No seed.

Rows are held in memory. A study shows the file beside its arms (`baselines: FILE`, docs/studies.md). Further options change
the configuration. Of several tasks the first is predicted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run from a checkout, where the package is not installed

from dlrm.config import load_config  # noqa: E402
from dlrm.config.describe import to_plain  # noqa: E402
from dlrm.data.build import build_dataset  # noqa: E402
from dlrm.data.source import Source  # noqa: E402
from dlrm.files import write_json  # noqa: E402
from dlrm.metrics.binary import BinaryMetrics  # noqa: E402
from dlrm.schema import Schema  # noqa: E402
from dlrm.studies.baselines import FORMAT, VERSION  # noqa: E402
from dlrm.studies.table import SCORES  # noqa: E402

FOLDS = 5
MOST_ROUNDS, PATIENCE = 3000, 50
C_GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
READ_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Rows:
    """M rows of a split that have a label.

    Attributes:
        dense_MN: float32; ids_MS: int64 (M, S), those of feature 0 first, -1 where a bag has fewer; labels_M: 0 or 1.
    """

    dense_MN: np.ndarray
    ids_MS: np.ndarray
    labels_M: np.ndarray


def read(source: Source) -> Rows:
    """All rows of a split; those that the loader would skip, or without a label, are left out."""
    parts = [
        source.read(torch.arange(first, min(first + READ_AT_ONCE, source.num_samples)))
        for first in range(0, source.num_samples, READ_AT_ONCE)
    ]
    hotness = [feature.hotness for feature in source.schema.sparse]
    column_S = torch.cat([torch.arange(count) for count in hotness])
    feature_S = torch.repeat_interleave(torch.arange(len(hotness)), torch.tensor(hotness))
    dense, ids, labels = [], [], []
    for samples in parts:
        ids_BS = samples.ids_BS.to(torch.int64)
        if samples.lengths_BF is not None:
            ids_BS = ids_BS.masked_fill(column_S >= samples.lengths_BF[:, feature_S], -1)
        kept_B = ~samples.labels_BT[:, 0].isnan()
        if samples.weights_B is not None:
            kept_B &= samples.weights_B != 0
        dense.append(samples.dense_BN[kept_B])
        ids.append(ids_BS[kept_B])
        labels.append(samples.labels_BT[kept_B, 0])
    return Rows(*(torch.cat(each).numpy() for each in (dense, ids, labels)))


def figures(logits_M: np.ndarray, labels_M: np.ndarray) -> dict[str, float | None]:
    """As the trainer computes them."""
    metrics = BinaryMetrics(torch.device("cpu"))
    labels = torch.from_numpy(labels_M)
    metrics.update(torch.from_numpy(logits_M), labels, torch.ones_like(labels))
    found = metrics.compute().to_dict()
    return {name: found[name] for name in SCORES}


class OneHot:
    """Dense features, standardised on training rows, and a column for each id: (M, N + rows of all tables), sparse."""

    def __init__(self, schema: Schema, train: Rows) -> None:
        self._mean_N, self._std_N = train.dense_MN.mean(0), train.dense_MN.std(0) + 1e-6
        rows = [feature.rows for feature in schema.sparse]
        hotness = [feature.hotness for feature in schema.sparse]
        self._first_S = np.repeat(np.cumsum([0, *rows[:-1]]), hotness)
        self._columns = sum(rows)

    def __call__(self, rows: Rows) -> scipy.sparse.csr_matrix:
        """Of some rows."""
        there_MS = rows.ids_MS >= 0
        columns_K = (rows.ids_MS + self._first_S)[there_MS]
        ends_M = np.concatenate([[0], there_MS.sum(1).cumsum()])
        ones_K = np.ones(len(columns_K), dtype=np.float32)
        ids = scipy.sparse.csr_matrix((ones_K, columns_K, ends_M), shape=(len(rows.labels_M), self._columns))
        dense = scipy.sparse.csr_matrix((rows.dense_MN - self._mean_N) / self._std_N)
        return scipy.sparse.hstack([dense, ids], format="csr")


class ClickRates:
    """Of each feature the smoothed click rate and the logarithm of the count of its ids: (M, 2 F), means over a bag."""

    def __init__(self, schema: Schema, train: Rows, smoothing: float) -> None:
        self._schema, self._smoothing = schema, smoothing
        self._rates = self._of(train)
        self._prior = float(train.labels_M.mean())

    def _of(self, rows: Rows) -> list[tuple[np.ndarray, np.ndarray]]:
        prior, first, found = float(rows.labels_M.mean()), 0, []
        for feature in self._schema.sparse:
            ids_MH = rows.ids_MS[:, first : first + feature.hotness]
            first += feature.hotness
            there_MH = ids_MH >= 0
            labels_K = np.broadcast_to(rows.labels_M[:, None], ids_MH.shape)[there_MH]
            count_R = np.bincount(ids_MH[there_MH], minlength=feature.rows)
            clicks_R = np.bincount(ids_MH[there_MH], weights=labels_K, minlength=feature.rows)
            rate_R = (clicks_R + self._smoothing * prior) / (count_R + self._smoothing)
            found.append((rate_R, np.log1p(count_R)))
        return found

    def __call__(self, rows: Rows, rates: list[tuple[np.ndarray, np.ndarray]] | None = None) -> np.ndarray:
        """Of rows whose labels had no part in it."""
        columns, first = [], 0
        for feature, tables in zip(self._schema.sparse, rates or self._rates, strict=True):
            ids_MH = rows.ids_MS[:, first : first + feature.hotness]
            first += feature.hotness
            there_MH = ids_MH >= 0
            sizes_M = np.maximum(there_MH.sum(1), 1)
            columns += [(table_R[ids_MH] * there_MH).sum(1) / sizes_M for table_R in tables]
        return np.stack(columns, axis=1)

    def of_training(self, train: Rows, seed: int = 0) -> np.ndarray:
        """Of the training rows themselves: by the rows of the other folds."""
        fold_M = np.random.default_rng(seed).integers(FOLDS, size=len(train.labels_M))
        found = np.empty((len(train.labels_M), 2 * len(self._schema.sparse)))
        for fold in range(FOLDS):
            own_M = fold_M == fold
            others = Rows(train.dense_MN[~own_M], train.ids_MS[~own_M], train.labels_M[~own_M])
            mine = Rows(train.dense_MN[own_M], train.ids_MS[own_M], train.labels_M[own_M])
            found[own_M] = self(mine, self._of(others))
        return found


def tables_of(schema: Schema, splits: dict[str, Rows], ids: str, smoothing: float) -> tuple[dict[str, Any], list[int]]:
    """(features by split, places of LightGBM's categories)."""
    if ids == "categories":
        single_S = np.repeat([f.hotness == 1 for f in schema.sparse], [f.hotness for f in schema.sparse])
        found = {
            name: np.hstack([rows.dense_MN, rows.ids_MS[:, single_S].astype(np.float32)])
            for name, rows in splits.items()
        }
        dense = len(schema.dense)
        return found, list(range(dense, dense + int(single_S.sum())))
    rates = ClickRates(schema, splits["train"], smoothing)
    encoded = {name: rates.of_training(rows) if name == "train" else rates(rows) for name, rows in splits.items()}
    return {name: np.hstack([splits[name].dense_MN, encoded[name]]).astype(np.float32) for name in splits}, []


def drawn(generator: np.random.Generator) -> dict[str, Any]:
    """Settings of a trial."""
    return {
        "ids": str(generator.choice(["categories", "rates"])),
        "smoothing": float(10 ** generator.uniform(0.5, 2.5)),
        "learning_rate": float(10 ** generator.uniform(-2, -0.9)),
        "num_leaves": int(2 ** generator.uniform(3, 7.5)),
        "min_data_in_leaf": int(10 ** generator.uniform(1, 2.7)),
        "feature_fraction": float(generator.uniform(0.3, 1.0)),
        "bagging_fraction": float(generator.uniform(0.5, 1.0)),
        "lambda_l2": float(10 ** generator.uniform(-2, 2)),
        "cat_smooth": float(10 ** generator.uniform(0.5, 2.5)),
        "cat_l2": float(10 ** generator.uniform(0, 2.5)),
        "min_data_per_group": int(10 ** generator.uniform(0.5, 2.5)),
    }


class LightGbm:
    """LightGBM on the splits of a data set."""

    def __init__(self, schema: Schema, splits: dict[str, Rows], threads: int) -> None:
        self._schema, self._splits, self._threads = schema, splits, threads

    def train(self, settings: dict[str, Any], seed: int, splits: tuple[str, ...]) -> tuple[int, dict[str, np.ndarray]]:
        """Train, early-stopped on validation log loss; rounds, and (M,) logits of some splits."""
        import lightgbm

        own = {**settings}
        features, categories = tables_of(self._schema, self._splits, own.pop("ids"), own.pop("smoothing"))
        data = {
            name: lightgbm.Dataset(
                features[name],
                self._splits[name].labels_M,
                categorical_feature=categories,
                params={"feature_pre_filter": False, "verbosity": -1},
                free_raw_data=False,
            )
            for name in ("train", "validation")
        }
        fixed = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "bagging_freq": 1}
        booster = lightgbm.train(
            {**fixed, **own, "seed": seed, "num_threads": self._threads, "deterministic": True, "force_row_wise": True},
            data["train"],
            num_boost_round=MOST_ROUNDS,
            valid_sets=[data["validation"]],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        return booster.best_iteration, {
            name: np.asarray(booster.predict(features[name], raw_score=True)) for name in splits
        }

    def figures(self, logits: dict[str, np.ndarray]) -> dict[str, Any]:
        """Of every split that there are logits of."""
        return {name: figures(logits_M, self._splits[name].labels_M) for name, logits_M in logits.items()}

    def learned(self, trials: int, seeds: int) -> dict[str, dict[str, Any]]:
        """Choose on validation rows, then train with every seed and score the test rows: each seed, and their mean."""
        generator = np.random.default_rng(0)
        tried = []
        for number in range(trials):
            began_s, settings = time.perf_counter(), drawn(generator)
            rounds, logits = self.train(settings, 0, ("validation",))
            tried.append({"settings": settings, "rounds": rounds, **self.figures(logits)})
            auc, seconds = tried[-1]["validation"]["auc"], time.perf_counter() - began_s
            print(f"lightgbm, trial {number}: validation AUC {auc:.5f}, {rounds} rounds ({seconds:.0f} s)", flush=True)
        chosen = max(tried, key=lambda one: one["validation"]["auc"])["settings"]
        trained = {100 + seed: self.train(chosen, 100 + seed, ("validation", "test")) for seed in range(seeds)}
        runs = [{"seed": seed, "rounds": rounds, **self.figures(logits)} for seed, (rounds, logits) in trained.items()]
        mean = {
            name: logit(np.mean([expit(logits[name]) for _, logits in trained.values()], axis=0))
            for name in ("validation", "test")
        }
        about = (
            f"LightGBM {version('lightgbm')}, the best by validation AUC of {trials} draws (ids as {chosen['ids']}), "
            "early-stopped on validation log loss"
        )
        return {
            "LightGBM": {"about": about, "chosen": chosen, "trials": tried, "runs": runs},
            f"LightGBM, mean of {seeds}": {
                "about": f"the mean probability of the {seeds} runs of LightGBM",
                "chosen": chosen,
                "trials": [],
                "runs": [{"seed": 0, **self.figures(mean)}],
            },
        }


def logistic(schema: Schema, splits: dict[str, Rows]) -> dict[str, Any]:
    """Logistic regression, its C chosen on validation rows."""
    encode = OneHot(schema, splits["train"])
    features = {name: encode(rows) for name, rows in splits.items()}
    tried: list[dict[str, Any]] = []
    models = {}
    for c in C_GRID:
        models[c] = LogisticRegression(C=c, max_iter=3000).fit(features["train"], splits["train"].labels_M)
        scored = figures(models[c].decision_function(features["validation"]), splits["validation"].labels_M)
        tried.append({"settings": {"C": c}, "validation": scored})
        print(f"logistic regression, C {c}: validation AUC {scored['auc']:.5f}", flush=True)
    best = max(tried, key=lambda one: one["validation"]["auc"])
    test = figures(models[best["settings"]["C"]].decision_function(features["test"]), splits["test"].labels_M)
    about = f"scikit-learn {version('scikit-learn')}'s logistic regression on one-hot ids, C {best['settings']['C']}"
    runs = [{"seed": 0, "validation": best["validation"], "test": test}]
    return {"about": about, "chosen": best["settings"], "trials": tried, "runs": runs}


def main() -> None:
    """Read the rows, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20, help="draws of LightGBM's settings")
    parser.add_argument("--seeds", type=int, default=5, help="of LightGBM")
    parser.add_argument("--threads", type=int, default=0, help="of LightGBM; 0: all cores")
    parser.add_argument("--learners", default="lightgbm,logistic")
    arguments, options = parser.parse_known_args()
    config = load_config(arguments.config, options)
    if config.evaluation.weighted:
        parser.error("evaluation.weighted: these learners know no weights of samples, so set it to false")
    dataset = build_dataset(config.data)
    sources = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    splits = {name: read(source) for name, source in sources.items()}
    counts = {name: len(rows.labels_M) for name, rows in splits.items()}
    if not all(counts.values()):
        parser.error(f"every split needs rows, and there are {counts}")
    print(f"rows: {counts}", flush=True)
    wanted = arguments.learners.split(",")
    learners: dict[str, Any] = {}
    if "logistic" in wanted:
        learners["logistic regression"] = logistic(dataset.schema, splits)
    if "lightgbm" in wanted:
        learners |= LightGbm(dataset.schema, splits, arguments.threads).learned(arguments.trials, arguments.seeds)
    for name, learner in learners.items():
        aucs = [run["test"]["auc"] for run in learner["runs"]]
        print(
            f"{name}: test AUC {np.mean(aucs):.5f} ({len(aucs)} runs, least {min(aucs):.5f}, greatest {max(aucs):.5f})"
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    found = {"format": FORMAT, "version": VERSION, "data": to_plain(config.data), "rows": counts, "learners": learners}
    write_json(arguments.output, json.loads(json.dumps(found)), indent=2, durable=False)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
