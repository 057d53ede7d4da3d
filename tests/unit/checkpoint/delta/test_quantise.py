"""Dense tensors of 8-bit deltas: which are made smaller, how near they come out, and what is refused of them."""

import pytest
import safetensors.torch
import torch

from dlrm.checkpoint.delta.quantise import fault_in_quantised, quantised, quantised_record
from dlrm.checkpoint.load import differences, load_tensors
from dlrm.checkpoint.manifest import TensorRecord
from dlrm.checkpoint.reader import find_all_damage, open_reader
from dlrm.checkpoint.stored import open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor
from dlrm.errors import CheckpointError
from tests.unit.checkpoint.delta.deltas import alone, normal_state, save_delta
from tests.unit.checkpoint.states import State, blank, cut_up, gathered, save_ranks, small_chunks, uncut
from tests.unit.checkpoint.tools.runs import cells, command

DENSE = {
    "mlp.large": (40, 24),
    "mlp.cube": (6, 4, 16),
    "mlp.bias": (400,),
    "mlp.large.optimizer.exp_avg": (40, 24),
    "mlp.large.optimizer.exp_avg_sq": (40, 24),
    "mlp.large.optimizer.step": (),
    "average.mlp.large": (40, 24),
}
CODES = ["mlp.large", "mlp.cube", "average.mlp.large"]
STATES = ["mlp.large.optimizer.exp_avg", "mlp.large.optimizer.exp_avg_sq"]
NO_ROWS = {"a": [], "b": []}


def dense_state(seed):
    """Tables that are always the same, dense tensors that are of the seed; second moments as small as they get."""
    generator = torch.Generator().manual_seed(seed)
    values = normal_state(0).values | {name: torch.randn(shape, generator=generator) for name, shape in DENSE.items()}
    exponents = torch.randint(-35, 5, (40, 24), generator=generator).double()
    values[STATES[1]] = (values[STATES[1]].abs().double() * 10**exponents).float()
    return State(values)


def in_fewer_bytes(state):
    """A change of what a delta holds: all that can be reduced is."""

    def change(tensors, record):
        for name in (*CODES, *STATES):
            value = state.values[name]
            small = quantised(GlobalTensor.of(name, value, replicated=True))
            del tensors[name]
            tensors[small.name] = alone(small.name, small.shards[0].tensor)

    return change


def save_chain(folder, *, change=lambda tensors, record: None, bits=8):
    """A full checkpoint and two deltas of other dense tensors; ``change`` spoils the last. The last state and path."""
    base = parent = save_ranks(folder, 1, [uncut(dense_state(1))])
    for step in (2, 3):
        state = dense_state(step)

        def both(tensors, record, state=state, last=step == 3):
            in_fewer_bytes(state)(tensors, record)
            if last:
                change(tensors, record)

        parent = save_delta(folder, step, state, NO_ROWS, base=base, parent=parent, bits=bits, change=both)
    return state, parent


def assert_near(found, expected):
    """Within half a 255th of the row's range, within a 256th of the number, and else equal to the bit."""
    for name, value in found.items():
        exact = expected[name].double()
        if name in CODES:
            bound = (exact.amax(-1, keepdim=True) - exact.amin(-1, keepdim=True)) / 255 * 0.5001
        elif name in STATES:
            bound = exact.abs() / 256
        else:
            bound = torch.zeros_like(exact)
        assert bool(((value.double() - exact).abs() <= bound).all()), name


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "expected"),
    [
        ("mlp.weight", (16, 16), "float32", ((16, 24), "uint8")),
        ("average.mlp.weight", (16, 16), "float32", ((16, 24), "uint8")),
        ("mlp.cube", (2, 8, 16), "float32", ((2, 8, 24), "uint8")),
        ("mlp.weight.optimizer.exp_avg_sq", (16, 16), "float32", ((16, 16), "bfloat16")),
        ("mlp.weight.optimizer.sum", (256, 1), "float32", ((256, 1), "bfloat16")),
        ("mlp.weight", (256, 7), "float32", None),
        ("mlp.weight", (15, 17), "float32", None),
        ("mlp.bias", (4096,), "float32", None),
        ("mlp.bias.optimizer.exp_avg", (4096,), "float32", None),
        ("mlp.weight.optimizer.step", (), "float32", None),
        ("mlp.weight", (64, 64), "float64", None),
        ("mlp.weight", (64, 64), "bfloat16", None),
        ("counts", (64, 64), "int64", None),
        ("tables.a.weight", (64, 64), "float32", None),
        ("average.tables.a.weight", (64, 64), "float32", None),
        ("tables.a.optimizer.exp_avg", (64, 64), "float32", None),
    ],
)
def test_large_dense_matrices_are_made_smaller_and_nothing_else(name, shape, dtype, expected):
    found = quantised_record(TensorRecord(name=name, shape=shape, dtype=dtype))
    if expected is None:
        assert found is None
    else:
        assert found == TensorRecord(name=f"reduced.{name}", shape=expected[0], dtype=expected[1])


@pytest.mark.parametrize("seed", range(4))
def test_any_shards_are_filled_from_the_newest_delta_with_numbers_near_the_exact_ones(seed, tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    state, path = save_chain(tmp_path)
    checkpoint = open_checkpoint(path)
    assert len(checkpoint.chunks["reduced.mlp.large"]) > 5
    tensors = cut_up(blank(state), seed, 3)
    for rank in tensors:
        assert differences(checkpoint, rank) == []
        assert load_tensors(checkpoint, rank) == []
    found = gathered(tensors).values
    assert_near(found, state.values)
    assert all(not torch.equal(found[name], state.values[name]) for name in (*CODES, *STATES))
    assert int(found[STATES[1]].count_nonzero()) == 40 * 24
    assert find_all_damage(open_reader(checkpoint)) == []


def test_a_delta_with_eight_bits_may_hold_dense_tensors_exactly(tmp_path):
    base = save_ranks(tmp_path, 1, [uncut(dense_state(1))])
    state = dense_state(2)
    path = save_delta(tmp_path, 2, state, NO_ROWS, base=base, parent=base, bits=8)
    target = blank(state)
    assert load_tensors(open_checkpoint(path), uncut(target)) == []
    assert target.same_bits_as(state)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3.4e38])
@pytest.mark.parametrize("name", ["mlp.large", "mlp.large.optimizer.exp_avg"])
def test_what_would_not_come_out_finite_is_seen(name, value):
    tensor = torch.ones(40, 24)
    tensor[3, 5] = value
    fault = fault_in_quantised(quantised(GlobalTensor.of(name, tensor, replicated=True)).shards[0].tensor)
    assert bool(fault) == (name != "mlp.large" or value != 3.4e38)


def replaced(name, value):
    return lambda tensors, record: tensors.update({name: alone(name, value)})


def renamed(name, other):
    return lambda tensors, record: tensors.update({other: alone(other, tensors.pop(name).shards[0].tensor)})


def without(name):
    return lambda tensors, record: tensors.pop(name)


def bad_codes(scale, offset):
    def change(tensors, record):
        codes = tensors["reduced.mlp.cube"].shards[0].tensor
        codes[5, 3, 16:] = torch.tensor([scale, offset], dtype=torch.float32).view(torch.uint8)

    return change


def bad_number(value):
    def change(tensors, record):
        tensors["reduced.mlp.large.optimizer.exp_avg_sq"].shards[0].tensor[39, 23] = value

    return change


NO_NUMBER = float("nan")
HOSTILE = {
    "bits that are exact": (32, lambda tensors, record: None, "should not hold reduced."),
    "both ways": (8, replaced("mlp.large", torch.ones(40, 24)), "should not hold reduced.mlp.large"),
    "neither way": (8, without("reduced.mlp.large"), "do not hold the same mlp.large"),
    "a tensor that has to be exact": (8, renamed("mlp.bias", "reduced.mlp.bias"), "should not hold reduced.mlp.bias"),
    "a table": (8, replaced("reduced.tables.a.weight", torch.ones(37, 8)), "should not hold reduced.tables.a.weight"),
    "a tensor of no state": (8, replaced("reduced.x", torch.ones(40, 24)), "should not hold reduced.x"),
    "a name that is only the prefix": (8, replaced("reduced.", torch.ones(3)), "should not hold reduced."),
    "reduced twice": (
        8,
        renamed("reduced.mlp.large", "reduced.reduced.mlp.large"),
        "do not hold the same mlp.large",
    ),
    "codes of another width": (
        8,
        replaced("reduced.mlp.large", torch.ones(40, 24, dtype=torch.uint8)),
        "should hold another reduced.mlp.large",
    ),
    "codes of other rows": (
        8,
        replaced("reduced.mlp.large", torch.ones(41, 32, dtype=torch.uint8)),
        "should hold another reduced.mlp.large",
    ),
    "codes of another type": (8, replaced("reduced.mlp.large", torch.ones(40, 32)), "should hold another"),
    "moments as codes": (
        8,
        replaced(f"reduced.{STATES[0]}", torch.ones(40, 32, dtype=torch.uint8)),
        f"should hold another reduced.{STATES[0]}",
    ),
    "moments in half precision": (
        8,
        replaced(f"reduced.{STATES[0]}", torch.ones(40, 24, dtype=torch.float16)),
        f"should hold another reduced.{STATES[0]}",
    ),
    "a moment that is no number": (8, bad_number(NO_NUMBER), "a number is not finite"),
    "an infinite moment": (8, bad_number(-float("inf")), "a number is not finite"),
    "scale that is no number": (8, bad_codes(NO_NUMBER, 0), "no finite number"),
    "infinite offset": (8, bad_codes(1, float("inf")), "no finite number"),
    "scale too large": (8, bad_codes(3e38, 0), "no finite number"),
    "negative scale": (8, bad_codes(-1, 0), "a negative scale"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_what_somebody_puts_in_is_refused_in_one_line_before_anything_changes(case, tmp_path):
    bits, change, says = HOSTILE[case]
    _, path = save_chain(tmp_path, change=change, bits=bits)
    target = dense_state(7)
    with pytest.raises(CheckpointError) as caught:
        load_tensors(open_checkpoint(path), uncut(target))
    assert says in str(caught.value)
    assert str(caught.value).isprintable()
    assert target.same_bits_as(dense_state(7))


def test_codes_cut_across_are_refused(tmp_path, monkeypatch):
    small_chunks(monkeypatch, chunk_bytes=20)
    _, path = save_chain(tmp_path)
    target = dense_state(7)
    with pytest.raises(CheckpointError, match=r"reduced\.mlp.*parts of rows, without their scales"):
        load_tensors(open_checkpoint(path), uncut(target))
    assert target.same_bits_as(dense_state(7))


def test_verify_sees_numbers_that_cannot_be_restored(tmp_path, capsys):
    _, path = save_chain(tmp_path, change=bad_number(NO_NUMBER))
    assert "exp_avg_sq: a number is not finite" in str(find_all_damage(open_reader(path))[0])
    with pytest.raises(CheckpointError, match="1 fault in 3 checkpoints"):
        command(capsys, "verify", path)
    assert "exp_avg_sq: a number is not finite" in capsys.readouterr().out


def test_the_commands_take_quantised_tensors_as_what_they_are_and_export_what_they_restore(tmp_path, capsys):
    state, path = save_chain(tmp_path / "run")
    assert "delta of step 2" in command(capsys, "list", tmp_path / "run")
    assert "reduced.mlp.large" not in command(capsys, "show", path)
    assert len(command(capsys, "verify", path).splitlines()) == 3
    assert "the state that it restores is compared" in command(capsys, "diff", path.parent / "step_00000002", path)
    assert "of step 3" in command(capsys, "export", path, tmp_path / "out", "--optimizer")
    found = safetensors.torch.load_file(tmp_path / "out")
    assert set(found) == set(state.values)
    assert_near(found, state.values)


def test_show_names_tensors_in_fewer_bytes_as_what_they_restore_and_says_how_they_are_stored(tmp_path, capsys):
    _, path = save_chain(tmp_path)
    shown = command(capsys, "show", path)
    assert "reduced." not in shown
    found = {cells(line)[0]: [cell.strip() for cell in cells(line)[1:]] for line in shown.splitlines() if "mlp" in line}
    assert found["mlp.large"] == ["40 x 24", "float32 in 8 bits", "1.2 KiB"]
    assert found["mlp.cube"] == ["6 x 4 x 16", "float32 in 8 bits", "576 B"]
    assert found["mlp.large.optimizer.exp_avg"] == ["40 x 24", "float32 as bfloat16", "1.9 KiB"]
    assert found["mlp.bias"] == ["400", "float32", "1.6 KiB"]
    assert found["mlp.large.optimizer.step"] == ["()", "float32", "4 B"]
