import pytest
import torch

from dlrm.data.multi_hot.hashed import HashedBags
from dlrm.schema import Schema

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("distribution", ["uniform", "pareto"])
def test_hashed_bags_on_cuda_are_those_of_the_host(distribution, dtype):
    rows, hotness = (40_000_000, 3, 590_152, 36), (100, 1, 10, 3)
    schema = Schema.numbered(13, rows, hotness)
    generator = torch.Generator().manual_seed(0)
    ids_BF = torch.stack([torch.randint(-1, n + 1, (5000,), generator=generator) for n in rows], dim=1).to(dtype)
    on_host, on_cuda = (
        HashedBags(schema, distribution=distribution, seed=7, device=device) for device in ("cpu", "cuda")
    )
    ids_BS = on_cuda.expand(ids_BF.cuda())
    assert ids_BS.is_cuda
    assert torch.equal(ids_BS.cpu(), on_host.expand(ids_BF))
