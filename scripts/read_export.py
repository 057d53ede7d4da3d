"""Answers with an export by torch, numpy and safetensors alone: what another program has to do.

python scripts/read_export.py EXPORT FEATURES.npz PROBABILITIES.npy

FEATURES.npz holds ``dense`` float32 (rows, N), and ``ids`` (rows, S): the ids of the first table, then those of the second
and so on, -1 where a bag is not full. docs/inference.md describes the files. For exports that you trust: torch runs code
that a program may hold, which dlrm's own reader refuses.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

folder, features = Path(sys.argv[1]), np.load(sys.argv[2])
manifest = json.loads((folder / "manifest.json").read_text())


def weights(stored: np.ndarray, precision: str) -> np.ndarray:
    """Rows as they are stored -> float32 (rows, D)."""
    if precision in ("fp32", "fp16"):
        return stored.astype(np.float32)
    scale, bias = stored[:, :4].copy().view(np.float16).astype(np.float32).T[:, :, None]
    numbers = stored[:, 4:]
    if precision == "int4":
        numbers = np.stack([numbers & 15, numbers >> 4], axis=2).reshape(len(stored), -1)
    return numbers * scale + bias


tables = [[] for _ in manifest["tables"]]
for file in manifest["files"]:
    for piece in file.get("pieces", []):
        name, first = manifest["sparse"][piece["table"]]["name"], piece["first_row"]
        with safe_open(folder / file["name"], "numpy") as content:
            stored = content.get_tensor(f"{name}@{first}" if first or "@" in name else name)
        tables[piece["table"]].append(weights(stored, manifest["tables"][piece["table"]]["precision"]))

pooled, start = [], 0
for feature, table, parts in zip(manifest["sparse"], manifest["tables"], tables, strict=True):
    ids, start = features["ids"][:, start : start + feature["hotness"]], start + feature["hotness"]
    there = ids >= 0
    rows = np.concatenate(parts)[np.where(there, ids, 0)] * there[:, :, None]
    divisor = np.maximum(there.sum(1, keepdims=True), 1) if table["pooling"] == "mean" else 1
    pooled.append((rows.sum(1) / divisor).astype(np.float32))

program = torch.export.load(str(folder / "dense.pt2")).module(check_guards=False)
dense, columns = torch.from_numpy(features["dense"]), torch.from_numpy(np.concatenate(pooled, axis=1))
with torch.no_grad():
    np.save(sys.argv[3], program(dense, columns).sigmoid().numpy())
