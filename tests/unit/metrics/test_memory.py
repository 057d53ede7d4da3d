import psutil
import pytest
import torch

from dlrm.metrics.memory import peak_memory

GIB = 1 << 30


def test_the_peak_is_at_least_what_is_resident_now_and_keeps_what_was_freed():
    resident_gib = psutil.Process().memory_info().rss / GIB
    assert peak_memory(torch.device("cpu")).resident_gib >= 0.99 * resident_gib
    touched = torch.ones(1 << 26)  # 256 MiB
    with_tensor_gib = psutil.Process().memory_info().rss / GIB
    del touched
    assert peak_memory(torch.device("cpu")).resident_gib >= 0.99 * with_tensor_gib


def test_a_cpu_has_no_device_figures():
    assert peak_memory(torch.device("cpu")).to_dict() == {
        "resident_gib": pytest.approx(peak_memory(torch.device("cpu")).resident_gib, rel=0.1),
        "device_allocated_gib": None,
        "device_reserved_gib": None,
    }


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_reports_what_tensors_took_and_what_was_reserved():
    device = torch.device("cuda")
    tensor = torch.ones(1 << 26, device=device)
    peak = peak_memory(device)
    assert peak.device_reserved_gib >= peak.device_allocated_gib >= tensor.nbytes / GIB
