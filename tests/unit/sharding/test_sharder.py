"""The formats in which pooled embeddings are sent."""

import pytest
import torch
from torchrec.distributed.types import CommOp

from dlrm.config.precision import ExchangeConfig
from dlrm.sharding.sharder import build_sharders

POOLED = (CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER)
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def codecs(forward, backward):
    pooled, unpooled = (
        sharder.qcomm_codecs_registry for sharder in build_sharders(ExchangeConfig(forward=forward, backward=backward))
    )
    assert set(pooled) == {operation.name for operation in POOLED}
    assert set(unpooled) == {CommOp.SEQUENCE_EMBEDDINGS_ALL_TO_ALL.name}
    return [(pair.forward, pair.backward) for pair in (*pooled.values(), *unpooled.values())]


def test_float32_needs_no_codec():
    assert [sharder.qcomm_codecs_registry for sharder in build_sharders(ExchangeConfig())] == [None, None]


@pytest.mark.parametrize(
    ("forward", "backward"), [("fp16", "fp32"), ("bf16", "bf16"), ("fp16", "bf16"), ("fp32", "bf16")]
)
def test_each_collective_sends_the_format_that_was_asked_for(forward, backward):
    """torchrec's own registry would put fp16 in the place of bf16 on CPU."""
    for of_forward, of_backward in codecs(forward, backward):
        for codec, kind in ((of_forward, forward), (of_backward, backward)):
            assert codec.encode(torch.ones(4)).dtype == codec.quantized_dtype == TYPES[kind]
            assert codec.decode(codec.encode(torch.ones(4))).dtype == torch.float32


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_what_arrives_is_off_by_a_rounding_at_the_most(kind):
    format_ = torch.finfo(TYPES[kind])
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    values *= 10.0 ** torch.linspace(-12, 4, 10_000)
    for codec, _ in codecs(kind, "fp32"):
        arrived = codec.decode(codec.encode(values))
        bound = (format_.eps / 2 * values.abs()).clamp(min=format_.smallest_normal * format_.eps / 2)
        assert ((arrived.double() - values).abs() <= bound).all()


def test_values_beyond_fp16_are_taken_for_its_largest():
    for codec, _ in codecs("fp16", "fp32"):
        assert codec.decode(codec.encode(torch.tensor([1e6, -1e6]))).tolist() == [65504.0, -65504.0]
