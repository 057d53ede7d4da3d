"""In which number formats a run computes and sends; float32 throughout unless something here says otherwise."""

from __future__ import annotations

from typing import Literal

from dlrm.config.base import Section


class ExchangeConfig(Section):
    """The exchange of pooled embeddings between ranks; data-parallel tables, and a single rank, exchange none."""

    forward: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Format in which pooled embeddings (of tables cut by rows: partial sums, which are added up in it) are sent; fp16
    takes values beyond 65,504 for that."""
    backward: Literal["fp32", "bf16"] = "fp32"
    """Format in which their gradients are sent. (fp16 is none: they are divided by the number of a rank's samples, and
    what is below 3e-8 would be 0.)"""


class PrecisionConfig(Section):
    """Number formats. Weights of layers, optimizer state, the last layer with its logits, loss and metrics are float32."""

    dense: Literal["fp32", "bf16"] = "fp32"
    """What the layers outside of tables compute in. bf16 needs a device with instructions for it to be faster: a GPU, or
    a CPU with AVX512-BF16 or AMX."""
    tables: Literal["fp32", "fp16"] = "fp32"
    """Format of the tables' weights; what is pooled of them, and their optimizer's state, stay float32. Updates in fp16 are
    rounded to the nearest number on CPU, and at random (stochastic rounding) on CUDA (docs/tables.md)."""
    tf32: bool = False
    """Let CUDA round the inputs of float32 matrix products to 10 bits after the point (TF32), which is faster; nothing
    on CPU."""
    exchange: ExchangeConfig = ExchangeConfig()
    all_reduce: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Format in which the gradients of dense parameters are summed over ranks; fp16 rounds what is below 6e-5 more
    coarsely, and to 0 below 3e-8, and has nothing above 65,504, where a run would end as diverged."""
