"""Small models of every kind but ``dlrm``, as options: what tests take that every model has to pass."""

from __future__ import annotations

SMALL_MODELS = {
    "deepfm": "{kind: deepfm, embedding_dim: 8, deep_mlp: [16, 8]}",
    "lr": "{kind: lr}",
    "fm": "{kind: fm, embedding_dim: 8}",
    "wide_deep": "{kind: wide_deep, embedding_dim: 8, deep_mlp: [16, 8]}",
    "dcn_v1": "{kind: dcn_v1, embedding_dim: 8, cross_layers: 2, deep_mlp: [16, 8]}",
    "xdeepfm": "{kind: xdeepfm, embedding_dim: 8, cin: [5, 4], deep_mlp: [16, 8]}",
    "finalmlp": "{kind: finalmlp, embedding_dim: 8, stream1: [16, 8], stream2: [12, 6], gates: [6], fusion_heads: 2}",
    "wukong": "{kind: wukong, embedding_dim: 8, fm_vectors: 2, linear_vectors: 3, fm_rank: 2, fm_mlp: [9], "
    "dense_mlp: [6], top_mlp: [16, 8]}",
}
"""By kind, what ``model=`` is set to."""
