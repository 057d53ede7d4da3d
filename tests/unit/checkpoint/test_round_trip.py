"""What is loaded is what was saved, to the bit, whatever the cuts."""

import json
import struct

import pytest
import torch

from dlrm.checkpoint import fill as fill_module
from dlrm.checkpoint import snapshot as snapshot_module
from dlrm.checkpoint.folder import newest_good
from dlrm.checkpoint.load import differences, load_tensors
from dlrm.checkpoint.manifest import DTYPES
from dlrm.checkpoint.snapshot import Snapshots, chunks_to_write
from dlrm.checkpoint.stored import find_damage, open_checkpoint
from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.errors import CheckpointError, CheckpointMismatchError
from tests.unit.checkpoint.states import (
    SHAPES,
    State,
    blank,
    cut_up,
    gathered,
    random_state,
    same_bits,
    save_ranks,
    small_chunks,
)


@pytest.mark.parametrize("seed", range(24))
def test_any_cut_on_any_ranks_loads_what_any_other_has_saved(seed, tmp_path, monkeypatch):
    if seed % 3:
        small_chunks(monkeypatch)
        monkeypatch.setattr(fill_module, "KEPT_BYTES", 300)
    state = random_state(seed)
    path = save_ranks(tmp_path, seed, cut_up(state, seed, seed % 4 + 1), {"seed": seed})
    checkpoint = open_checkpoint(path)
    assert checkpoint.metadata == {"seed": seed}
    assert find_damage(checkpoint) == []
    ranks = cut_up(blank(state), seed + 1000, seed // 4 % 4 + 1)
    for tensors in ranks:
        assert differences(checkpoint, tensors) == []
        assert load_tensors(checkpoint, tensors) == []
    assert gathered(ranks).same_bits_as(state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (300,), (17, 5), (1, 200), (3, 0)])
def test_every_type_and_shape_survives(dtype, shape, tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    state = random_state(1, {"x": (shape, dtype)})
    path = save_ranks(tmp_path, 1, cut_up(state, 1, 1))
    target = cut_up(blank(state), 2, 1)
    load_tensors(open_checkpoint(path), target[0])
    assert gathered(target).same_bits_as(state)


def parsed_safetensors(path):
    """The tensors of a file by the published description of the format, by hand."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    assert sorted(entry["data_offsets"][0] for entry in header.values()) == [
        0,
        *sorted(entry["data_offsets"][1] for entry in header.values())[:-1],
    ]  # no holes
    types = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
             "BOOL": torch.bool, "U8": torch.uint8}  # fmt: skip
    found = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        dtype = types[entry["dtype"]]
        assert (8 + length + start) % dtype.itemsize == 0
        found[name] = torch.frombuffer(bytearray(body[start:stop]), dtype=dtype).reshape(entry["shape"])
    return found


def test_the_files_are_what_the_description_of_safetensors_says(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    state = random_state(3)
    path = save_ranks(tmp_path, 1, cut_up(state, 3, 2))
    total = blank(state)
    for file in path.glob("*.safetensors"):
        for name, values in parsed_safetensors(file).items():
            tensor, _, place = name.rpartition("@")
            offsets = tuple(int(number) for number in place.split(",") if number)
            index = tuple(slice(start, start + size) for start, size in zip(offsets, values.shape, strict=True))
            total.values[tensor][index] = values
    assert total.same_bits_as(state)


def test_replicated_tensors_are_written_once_and_by_all_ranks_alike(monkeypatch):
    small_chunks(monkeypatch, chunk_bytes=128)
    value = torch.arange(1000.0)
    tensor = GlobalTensor("w", (1000,), torch.float32, (Shard((0,), value),), replicated=True)
    shares = [chunks_to_write([tensor], rank, 4) for rank in range(4)]
    assert sorted(chunk.slice.offsets[0] for share in shares for chunk in share) == list(range(0, 1000, 32))
    sizes = [sum(chunk.bytes for chunk in share) for share in shares]
    assert sum(sizes) == 4000
    assert max(sizes) - min(sizes) <= 128


def test_a_snapshot_does_not_change_with_training_and_the_next_uses_its_memory():
    weight = torch.arange(12.0).reshape(3, 4)
    tensor = GlobalTensor("w", (3, 2), torch.float32, (Shard((0, 0), weight[:, 1:3]),))
    snapshots = Snapshots()
    first = snapshots.snapshot([tensor])
    before = bytes(first.files[0][0].data)
    weight.add_(1)
    assert bytes(first.files[0][0].data) == before == weight[:, 1:3].sub(1).contiguous().numpy().tobytes()
    second = snapshots.snapshot([tensor])
    assert bytes(second.files[0][0].data) == weight[:, 1:3].contiguous().numpy().tobytes()
    assert bytes(first.files[0][0].data) == bytes(second.files[0][0].data)


def test_small_snapshots_between_leave_the_memory_of_the_large_ones_to_the_next(monkeypatch):
    monkeypatch.setattr(snapshot_module, "MAX_FILE_BYTES", 4000)

    def numbers(count):  # a file for each 1000 of them
        shard = Shard((0,), torch.arange(float(count)))
        return [GlobalTensor(f"w{first}", (1000,), torch.float32, (Shard((0,), shard.tensor[first : first + 1000]),))
                for first in range(0, count, 1000)]  # fmt: skip

    def places(taken):
        return [torch.frombuffer(chunks[0].data, dtype=torch.uint8).data_ptr() for chunks in taken.files]

    def small(count):
        return [GlobalTensor("s", (count,), torch.float32, (Shard((0,), torch.ones(count)),))]

    snapshots = Snapshots()
    large = sorted(places(snapshots.snapshot(numbers(3000))))
    for count in (5, 900, 7):
        taken = snapshots.snapshot(small(count))
        assert places(taken)[0] in large
        assert bytes(taken.files[0][0].data) == torch.ones(count).numpy().tobytes()
    assert snapshots.snapshot([]).files == ()
    again = snapshots.snapshot(numbers(3000))
    assert sorted(places(again)) == large
    data = b"".join(bytes(chunk.data) for chunks in again.files for chunk in chunks)
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.float32), torch.arange(3000.0))


def test_a_snapshot_that_no_memory_fits_takes_new_memory_in_place_of_old():
    snapshots = Snapshots()
    for count, kept in ((10, 10), (30, 30), (20, 30), (40, 40)):
        values = torch.arange(float(count))
        taken = snapshots.snapshot([GlobalTensor("w", (count,), torch.float32, (Shard((0,), values),))])
        assert bytes(taken.files[0][0].data) == values.numpy().tobytes()
        assert [buffer.nbytes for buffer in snapshots._buffers] == [4 * kept]


def test_the_state_of_a_weight_that_requires_gradients_is_saved_and_loaded(tmp_path):
    weight = torch.nn.Parameter(torch.randn(4, 4))
    tensor = GlobalTensor("w", (4, 4), torch.float32, (Shard((0, 0), weight),))
    path = save_ranks(tmp_path, 1, [[tensor]])
    saved = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    load_tensors(open_checkpoint(path), [tensor])
    assert torch.equal(weight, saved)


MISFITS = ["a is not in the checkpoint", "b has shape [3] in the checkpoint, [4] here",
           "b is float32 in the checkpoint, float64 here", "c is in the checkpoint, not here"]  # fmt: skip


def misfit(tmp_path):
    saved = State({"b": torch.ones(3), "c": torch.ones(2), "d": torch.arange(5)})
    path = save_ranks(tmp_path, 1, cut_up(saved, 0, 1))
    here = State(
        {"a": torch.zeros(1), "b": torch.zeros(4, dtype=torch.float64), "d": torch.zeros(5, dtype=torch.int64)}
    )
    return open_checkpoint(path), cut_up(here, 0, 1)[0]


def test_every_difference_is_listed_before_anything_is_changed(tmp_path):
    checkpoint, tensors = misfit(tmp_path)
    assert differences(checkpoint, tensors) == MISFITS
    with pytest.raises(CheckpointMismatchError) as caught:
        load_tensors(checkpoint, tensors)
    assert caught.value.differences == tuple(MISFITS)
    assert all(difference in str(caught.value) for difference in MISFITS)
    assert not gathered([tensors]).values["d"].any()


def test_what_fits_is_loaded_and_the_rest_named_if_that_is_asked_for(tmp_path):
    checkpoint, tensors = misfit(tmp_path)
    assert load_tensors(checkpoint, tensors, strict=False) == MISFITS
    found = gathered([tensors]).values
    assert torch.equal(found["d"], torch.arange(5))
    assert not found["a"].any()
    assert not found["b"].any()


def test_parts_that_are_no_whole_are_not_committed(tmp_path):
    whole = torch.arange(10.0)
    part = GlobalTensor("w", (10,), torch.float32, (Shard((0,), whole[:6]),))
    rest = GlobalTensor("w", (10,), torch.float32, (Shard((5,), whole[5:]),))
    with pytest.raises(CheckpointError, match="4 of its 10 elements are missing"):
        save_ranks(tmp_path, 1, [[part]])
    with pytest.raises(CheckpointError, match="slices overlap"):
        save_ranks(tmp_path, 2, [[part], [rest]])
    other = GlobalTensor("w", (11,), torch.float32, ())
    with pytest.raises(CheckpointError, match="rank 1 has w as float32"):
        save_ranks(tmp_path, 3, [[GlobalTensor("w", (10,), torch.float32, (Shard((0,), whole),))], [other]])
    assert newest_good(tmp_path) == (None, [])


def test_metadata_that_are_no_json_are_not_committed(tmp_path):
    for metadata in ({"loss": float("nan")}, {"object": object()}):
        with pytest.raises((ValueError, TypeError)):
            save_ranks(tmp_path, 1, cut_up(random_state(0), 0, 1), metadata)
    assert newest_good(tmp_path) == (None, [])


def test_a_state_with_shards_outside_of_its_tensors_is_a_bug():
    for shard, shape in ((Shard((1,), torch.zeros(3)), (3,)), (Shard((0,), torch.zeros(3, dtype=torch.int64)), (3,))):
        with pytest.raises(ValueError, match="does not fit"):
            Snapshots().snapshot([GlobalTensor("w", shape, torch.float32, (shard,))])
    with pytest.raises(ValueError, match="same name"):
        Snapshots().snapshot([GlobalTensor("w", (1,), torch.float32, ())] * 2)
    with pytest.raises(ValueError, match="complex"):
        Snapshots().snapshot([GlobalTensor("w", (1,), torch.complex64, ())])
    with pytest.raises(ValueError, match="has to be all of it"):
        Snapshots().snapshot([GlobalTensor("w", (1,), torch.float32, (), replicated=True)])


def test_the_state_of_these_tests_has_nans_and_every_kind_of_type():
    state = random_state(0, {"x": ((4096,), "float16")})
    assert state.values["x"].isnan().any()
    assert same_bits(state.values["x"], state.values["x"].clone())
    assert {dtype for _, dtype in SHAPES.values()} >= {"float32", "float16", "bfloat16", "int64"}
