"""torch: which node of autograd runs, what its operators are called, which tensors share their memory."""

from __future__ import annotations

import pytest
import torch

from dlrm.distributed.internals import DispatchMode, FakeTensors, current_node, next_sequence_number
from tests.unit.contracts.hooks import hook

OPERATIONS = "dlrm/scaling/operations.py"


class Noted(DispatchMode):
    """The node of autograd that each operator runs for, and the operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[str, str | None, int | None]] = []

    def __torch_dispatch__(
        self, func: object, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        node = current_node()
        name = func._schema.name  # type: ignore[attr-defined]
        self.found.append((name, node and node.name(), node and node._sequence_nr()))  # type: ignore[attr-defined]
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


@pytest.mark.parametrize("fake", [False, True])
@hook(
    "_current_autograd_node", "_get_sequence_nr", "_sequence_nr", of="torch", used_in=OPERATIONS,
    see="torch/csrc/autograd/engine.cpp (get_current_node), torch/csrc/autograd/init.cpp, python_cpp_function.cpp",
)  # fmt: skip
def test_nodes_have_the_numbers_that_were_next_when_they_were_made_and_say_when_they_run(fake: bool) -> None:
    with FakeTensors() if fake else torch.enable_grad():  # type: ignore[no-untyped-call]
        weight = torch.ones(3, requires_grad=True)
        weight.grad = torch.zeros(3)
        assert current_node() is None
        first = next_sequence_number()
        y = weight.exp()
        second = next_sequence_number()
        z = y.sin()
        third = next_sequence_number()
        assert first < second < third
        with Noted() as noted:
            z.backward(torch.ones(3))
    assert current_node() is None
    of = {name: (node, number) for name, node, number in noted.found if node is not None and name.startswith("aten::")}
    assert of["aten::cos"][0] == "SinBackward0"
    assert second <= of["aten::cos"][1] < third  # type: ignore[operator]
    exp = [number for _, node, number in noted.found if node == "ExpBackward0"]
    assert exp
    assert all(first <= number < second for number in exp)
    assert "AccumulateGrad" in (of["aten::add_"][0] or "")


@hook("_schema", of="torch", used_in=OPERATIONS, see="torch/_ops.py (OpOverload), torch/_C (FunctionSchema)")
def test_an_operator_says_its_name_and_whether_it_writes_to_what_it_is_given() -> None:
    told = {op._schema.name: op._schema.is_mutable for op in (  # type: ignore[attr-defined]
        torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor, torch.ops.aten.view.default,
        torch.ops.aten._foreach_add_.List, torch.ops.prim.device.default,
    )}  # fmt: skip
    assert told == {
        "aten::add": False, "aten::add_": True, "aten::view": False, "aten::_foreach_add_": True, "prim::device": False,
    }  # fmt: skip


@pytest.mark.parametrize("fake", [False, True])
@hook("_cdata", of="torch", used_in=OPERATIONS, see="torch/storage.py (UntypedStorage)")
def test_tensors_that_share_memory_have_storages_with_one_number(fake: bool) -> None:
    with FakeTensors() if fake else torch.enable_grad():  # type: ignore[no-untyped-call]
        x, other = torch.ones(4, 3), torch.ones(4, 3)
        number = x.untyped_storage()._cdata
        assert x.t()[1:].untyped_storage()._cdata == x.detach().untyped_storage()._cdata == number
        assert other.untyped_storage()._cdata != number


@hook(
    "_foreach_zero_", of="torch", used_in="dlrm/scaling/cost/updates.py, as dlrm/optim/tables/data_parallel.py",
    see="torch/_torch_docs.py (foreach)",
)  # fmt: skip
def test_many_tensors_are_zeroed_at_once() -> None:
    tensors = [torch.ones(2), torch.ones(3)]
    torch._foreach_zero_(tensors)  # type: ignore[attr-defined]
    assert not any(tensor.any() for tensor in tensors)
