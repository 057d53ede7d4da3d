"""Small trials for the doctor, each in a process of its own, because what they look for may crash or hang.

    python -m dlrm.command.doctor_probes kernels cpu
    python -m dlrm.command.doctor_probes cuda
    python -m dlrm.command.doctor_probes collectives gloo STORE_FILE RANK WORLD_SIZE

Success is exit code 0; the last line on stderr says what went wrong otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta

COLLECTIVE_TIMEOUT_S = 30


def kernels(device: str) -> None:
    """Train one row of one table with fbgemm's fused kernel and compare with plain SGD."""
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    on_cpu = device == "cpu"
    place = EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE
    compute = ComputeDevice.CPU if on_cpu else ComputeDevice.CUDA
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        embedding_specs=[(4, 8, place, compute)],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=0.5,
        device=torch.device("cpu") if on_cpu else torch.device(device),
    )
    weights_RD = tables.split_embedding_weights()[0]
    weights_RD.data.fill_(1.0)
    ids = torch.tensor([2], device=device)
    offsets = torch.tensor([0, 1], device=device)
    tables(ids, offsets).sum().backward()
    expected_RD = torch.ones(4, 8)
    expected_RD[2] = 0.5  # 1 - 0.5 * gradient 1
    if not torch.equal(tables.split_embedding_weights()[0].detach().cpu(), expected_RD):
        raise SystemExit("the fused kernel gives wrong numbers")


def cuda() -> None:
    """Start CUDA on every device that torch sees and run one of fbgemm's kernels there, as a job's ranks do at start."""
    import torch

    from dlrm.distributed.devices import cuda_fault

    faults = [fault for index in range(torch.cuda.device_count()) if (fault := cuda_fault(index))]
    if faults:
        raise SystemExit(faults[0])


def collectives(backend: str, store_file: str, rank: int, world_size: int) -> None:
    """All-reduce and all-to-all, the two exchanges of a sharded model, among ``world_size`` processes."""
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    store = dist.FileStore(store_file, world_size)  # type: ignore[attr-defined]
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    total = torch.full((3,), float(rank + 1), device=device)
    dist.all_reduce(total)
    sent = torch.arange(world_size, dtype=torch.float32, device=device) + 10 * rank
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    expected = torch.arange(world_size, dtype=torch.float32) * 10 + rank
    if total[0].item() != world_size * (world_size + 1) / 2 or not torch.equal(received.cpu(), expected):
        raise SystemExit(f"{backend} gives wrong numbers")
    dist.barrier()
    dist.destroy_process_group()


def main(arguments: Sequence[str]) -> None:
    """Run the probe that ``arguments`` name."""
    if arguments[0] == "kernels":
        kernels(arguments[1])
    elif arguments[0] == "cuda":
        cuda()
    else:
        backend, store_file, rank, world_size = arguments[1:]
        collectives(backend, store_file, int(rank), int(world_size))


if __name__ == "__main__":
    main(sys.argv[1:])
