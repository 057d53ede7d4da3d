"""torch: exported programs and the operators that they may call."""

from __future__ import annotations

import inspect

import torch

from tests.unit.contracts.hooks import hook


@hook(
    "_inductor", of="torch", used_in="dlrm/inference/export/compiled.py and dlrm/inference/exported/program.py",
    see="torch/_inductor/__init__.py",
)  # fmt: skip
def test_packages_of_machine_code_are_made_of_programs_and_loaded_by_path() -> None:
    made = inspect.signature(torch._inductor.aoti_compile_and_package).parameters
    assert {"exported_program", "package_path", "inductor_configs"} <= made.keys()
    assert next(iter(inspect.signature(torch._inductor.aoti_load_package).parameters)) == "path"


@hook(
    "_ops", "_assert_tensor_metadata", of="torch", used_in="dlrm/inference/exported/program_graph.py and program.py",
    see="torch/_ops.py (OpOverloadPacket), torch/_export/passes",
)  # fmt: skip
def test_an_operator_of_aten_is_a_packet_of_overloads_with_schemas() -> None:
    packet = torch.ops.aten.linear
    assert isinstance(packet, torch._ops.OpOverloadPacket)
    assert not isinstance(torch.ops.aten.__name__, torch._ops.OpOverloadPacket)
    assert "default" in packet.overloads()
    assert not packet.default._schema.is_mutable
    assert torch.ops.aten.add_.Tensor._schema.is_mutable
    assert (
        torch.ops.aten._assert_tensor_metadata.default._schema.returns == []
    )  # so that to leave it out changes nothing


@hook(
    "_int_mm",
    of="torch",
    used_in="dlrm/inference/quantise/dense.py",
    see="aten/src/ATen/native/LinearAlgebra.cpp (_int_mm)",
)
def test_products_of_int8_matrices_within_63_are_exact_int32() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-127, 128, (32, 512), generator=generator)
    right = torch.randint(-63, 64, (512, 48), generator=generator)
    found = torch._int_mm(left.to(torch.int8), right.to(torch.int8))
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), left @ right)
