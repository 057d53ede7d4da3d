"""Checkpoints at s3:// on a real server on the loopback address, and what every storage has to do alike."""

import contextlib
import itertools
import random
import secrets

import pytest

from dlrm.checkpoint import remote as remote_module
from dlrm.checkpoint.delta.watch import DeltaWatch
from dlrm.checkpoint.folder import checkpoint_paths, newest_good, set_aside
from dlrm.checkpoint.load import load_tensors
from dlrm.checkpoint.remote import RemoteStorage, located
from dlrm.checkpoint.resume import load_newest
from dlrm.checkpoint.retention import prune
from dlrm.checkpoint.save import commit, discard, prepare, write_rank
from dlrm.checkpoint.saver import AsyncSaver
from dlrm.checkpoint.snapshot import Snapshots
from dlrm.checkpoint.storage import LocalStorage, UnreachableError, names_if_there
from dlrm.checkpoint.stored import find_damage, open_checkpoint
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import CheckpointError
from dlrm.remote.fsspec_files import FsspecHandler
from tests.support.storage_faults import Killed
from tests.unit.checkpoint.remote_runs import (
    KINDS,
    PART_BYTES,
    RANKS,
    SHAPES,
    Run,
    destinations,
    failing_requests,
    save_by_threads,
)
from tests.unit.checkpoint.states import blank, cut_up, gathered, random_state, same_bits, small_chunks, uncut


@pytest.fixture(params=["local", "s3", "memory", "fsspec's files"])
def place(request, tmp_path):
    """A storage, and a folder in it that is not there yet."""
    if request.param == "local":
        return LocalStorage(), str(tmp_path / "checkpoints")
    if request.param == "memory":  # of fsspec's
        return located(f"memory://{secrets.token_hex(4)}/checkpoints")
    if request.param == "fsspec's files":
        return RemoteStorage(FsspecHandler("file:///")), f"file://{tmp_path}/checkpoints"
    return request.getfixturevalue("s3"), f"{request.getfixturevalue('bucket').url}/my runs/checkpoints"


def steps_in(folder, storage):
    return [int(path[-8:]) for path in checkpoint_paths(folder, storage)]


def test_every_storage_reads_ranges_and_replaces_nothing(place):
    storage, folder = place
    with pytest.raises(FileNotFoundError):
        storage.names(folder)
    assert names_if_there(storage, folder) == []
    assert not storage.is_folder(folder)
    storage.make_folder(f"{folder}/a")
    with storage.writer(f"{folder}/a/file") as file:
        file.write(b"0123")
        file.write(memoryview(b"456789"))
    storage.put(f"{folder}/a/empty", b"")
    assert storage.names(folder) == ["a"]
    assert storage.names(f"{folder}/a") == ["empty", "file"]
    assert storage.is_folder(folder)
    assert not storage.is_folder(f"{folder}/a/file")
    assert storage.size(f"{folder}/a/file") == 10
    ranges = [(2, 3), (8, 100), (100, 1), (0, 1 << 62), (3, 0)]
    assert [storage.read(f"{folder}/a/file", *place) for place in ranges] == [b"234", b"89", b"", b"0123456789", b""]
    assert storage.read(f"{folder}/a/empty", 0, 10) == b""
    for write in (lambda: storage.put(f"{folder}/a/file", b"x"), lambda: storage.make_folder(f"{folder}/a")):
        with pytest.raises(FileExistsError):
            write()
    with pytest.raises(FileExistsError), storage.writer(f"{folder}/a/file") as file:
        file.write(b"x")
    for missing in (storage.size, lambda path: storage.read(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            missing(f"{folder}/a/fil")
    assert -60 < storage.idle_s(f"{folder}/a") < 60


def test_every_storage_removes_and_renames_a_folder_and_not_its_neighbours(place):
    storage, folder = place
    for name in ("a/file", "a/b/file", "ab/file"):
        if not storage.is_folder(f"{folder}/{name}".rpartition("/")[0]):
            storage.make_folder(f"{folder}/{name}".rpartition("/")[0])
        storage.put(f"{folder}/{name}", name.encode())
    with pytest.raises(OSError, match=r"not empty|is there already"):
        storage.rename_folder(f"{folder}/a", f"{folder}/ab")
    storage.rename_folder(f"{folder}/a", f"{folder}/c")
    assert storage.names(folder) == ["ab", "c"]
    assert storage.read(f"{folder}/c/b/file", 0, 99) == b"a/b/file"
    storage.remove_file(f"{folder}/c/file")
    assert storage.names(f"{folder}/c") == ["b"]
    storage.remove_folder(f"{folder}/c")
    assert storage.names(folder) == ["ab"]
    with pytest.raises(FileNotFoundError):
        storage.rename_folder(f"{folder}/c", f"{folder}/d")


def test_a_file_whose_writing_fails_is_not_there(place):
    storage, folder = place
    storage.make_folder(folder)
    if isinstance(storage, LocalStorage):
        pytest.skip("a local folder without a name of its own is what keeps such a file apart")

    def interrupted():
        with storage.writer(f"{folder}/file") as file:
            file.write(bytes(2 * PART_BYTES + 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert names_if_there(storage, folder) == []


def test_every_storage_gives_any_ranks_the_bits_that_others_have_saved(place, monkeypatch):
    small_chunks(monkeypatch, file_bytes=2000)
    storage, folder = place
    for step in (1, 2, 3):
        state = random_state(step)
        manifest = save_by_threads(storage, folder, step, cut_up(state, step, RANKS))
        ranks = cut_up(blank(state), 9, 3)
        for tensors in ranks:
            resumed = load_newest(folder, tensors, OneProcess(), storage=storage)
            assert resumed.checkpoint is not None
            assert (resumed.checkpoint.step, resumed.skipped) == (step, [])
        assert gathered(ranks).same_bits_as(state)
        names = storage.names(f"{folder}/step_0000000{step}")
        assert names == sorted(["COMMITTED", "manifest.json", *(file.name for file in manifest.files)])
    with pytest.raises(CheckpointError, match="is there already, and nothing is overwritten"):
        prepare(storage, folder, 3)
    assert prune(folder, keep=2, storage=storage) == [f"{folder}/step_00000001"]
    assert storage.names(folder) == ["step_00000002", "step_00000003"]
    found, skipped = newest_good(folder, storage=storage, verify=True)
    assert found is not None
    assert (found.step, skipped) == (3, [])


def test_every_storage_sets_a_damaged_checkpoint_aside_and_takes_its_step_again(place):
    storage, folder = place
    save_by_threads(storage, folder, 1, cut_up(random_state(1), 1, RANKS))
    aside = set_aside(f"{folder}/step_00000001", storage)
    assert newest_good(folder, storage=storage) == (None, [])
    assert "manifest.json" in storage.names(aside)
    save_by_threads(storage, folder, 1, cut_up(random_state(2), 1, RANKS))
    assert steps_in(folder, storage) == [1]
    assert storage.is_folder(aside)


def test_a_large_file_goes_up_in_parts_and_is_read_in_chunks(bucket, s3):
    data = random.Random(0).randbytes(2 * PART_BYTES + 12345)
    with s3.writer(f"{bucket.url}/large") as file:
        for start in range(0, len(data), 1_000_001):
            file.write(memoryview(data)[start : start + 1_000_001])
    assert bucket.get("large") == data
    assert bucket.client.head_object(Bucket=bucket.name, Key="large")["ETag"].endswith('-3"')
    with failing_requests() as requests:
        assert s3.read(f"{bucket.url}/large", PART_BYTES, 1000) == data[PART_BYTES : PART_BYTES + 1000]
    assert requests.count == 1
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


def test_of_two_writers_of_an_object_one_is_refused(bucket, s3):
    for size in (10, PART_BYTES + 1):
        url = f"{bucket.url}/file {size}"
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(FileExistsError))
            late = stack.enter_context(s3.writer(url))
            late.write(b"a" * size)
            with s3.writer(url) as early:
                early.write(b"b" * size)
        assert bucket.get(f"file {size}") == b"b" * size
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


def test_a_dead_writers_parts_go_with_the_folder(bucket, s3):
    with failing_requests(3, "killed before"), pytest.raises(Killed), s3.writer(f"{bucket.url}/a/file") as file:
        file.write(bytes(2 * PART_BYTES + 1))
    assert len(bucket.client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]) == 1
    s3.remove_folder(f"{bucket.url}/a")
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.name)


def saved_despite(run, step, at, kind):
    """Save while a request fails and try again where that was refused; whether a request failed."""
    failed = False
    with failing_requests(at, kind) as requests:
        try:
            run.save(step)
        except (CheckpointError, Killed):
            failed = True
    found = run.loaded_step()
    assert found == step or failed, "a save that failed has not said so"
    assert not (failed and kind == "answer lost"), "an answer that is lost once does no harm"
    if found != step:
        run.save(step)
        assert run.loaded_step() == step
    return requests.hit


def test_wherever_saving_is_interrupted_no_wrong_byte_is_loaded_and_a_good_checkpoint_is(folder, s3):
    run = Run(s3, folder)
    with failing_requests() as requests:
        run.save(2)
    steps = itertools.count(3)
    cases = list(zip(range(0, requests.count, 3), itertools.cycle(KINDS)))
    hits = [saved_despite(run, next(steps), at, kind) for at, kind in cases]
    assert len(hits) > 6
    assert sum(hits) >= len(hits) - 1  # other cuts may make a file less
    prune(folder, keep=2, storage=s3)
    assert len(steps_in(folder, s3)) == 2


def test_wherever_a_removal_is_interrupted_what_remains_is_whole_or_no_checkpoint(folder, s3):
    run = Run(s3, folder)
    step = 1
    for at, kind in itertools.product((0, 3), ("killed before", "killed after", "down")):
        run.save(step + 1)
        path = f"{folder}/step_{step:08d}"
        with failing_requests(at, kind), contextlib.suppress(OSError, Killed):
            discard(s3, path)
        if "COMMITTED" in names_if_there(s3, path):
            assert find_damage(open_checkpoint(path, s3)) == []
        assert run.loaded_step() == step + 1
        step += 1


def test_what_a_killed_save_has_left_is_cleared_when_its_step_is_saved_or_after_a_day(folder, s3, monkeypatch):
    run = Run(s3, folder)
    run.save(2)
    with failing_requests(12, "killed before"), pytest.raises(Killed):
        run.save(3)
    left = s3.names(f"{folder}/step_00000003")
    assert "COMMITTED" not in left
    prune(folder, keep=2, storage=s3)
    assert s3.names(f"{folder}/step_00000003") == left  # its process may be alive: it is this one
    assert [skip.path for skip in newest_good(folder, storage=s3)[1]] == [f"{folder}/step_00000003"]
    monkeypatch.setattr(remote_module.time, "time", lambda: 4e9)
    prune(folder, keep=2, storage=s3)
    assert steps_in(folder, s3) == [2, 1]


def test_an_older_save_of_the_same_step_cannot_put_its_bytes_into_a_checkpoint(folder, s3):
    ranks = cut_up(random_state(0, SHAPES), 0, RANKS)
    others = cut_up(random_state(1, SHAPES), 0, RANKS)
    old = destinations(s3, folder, 1, prepare(s3, folder, 1))
    write_rank(old[0], Snapshots(0, RANKS).snapshot(others[0]))
    new = destinations(s3, folder, 1, prepare(s3, folder, 1))
    write_rank(new[0], Snapshots(0, RANKS).snapshot(ranks[0]))
    with pytest.raises(CheckpointError, match="is there already"):
        write_rank(old[0], Snapshots(0, RANKS).snapshot(others[0]))
    write_rank(old[1], Snapshots(1, RANKS).snapshot(others[1]))  # nobody has written this one yet
    with pytest.raises(CheckpointError, match="is there already"):
        write_rank(new[1], Snapshots(1, RANKS).snapshot(ranks[1]))
    for save in (old[0], new[0]):
        with pytest.raises(CheckpointError, match=r"another save|rank 0 could not write its part"):
            commit(save, {}, time_limit_s=0)
    assert newest_good(folder, storage=s3)[0] is None
    save_by_threads(s3, folder, 1, ranks)
    tensors = uncut(blank(random_state(0, SHAPES)))
    load_newest(folder, tensors, OneProcess(), storage=s3)
    assert gathered([tensors]).same_bits_as(random_state(0, SHAPES))


def test_truncated_flipped_and_missing_objects_are_refused_and_the_checkpoint_before_is_taken(folder, bucket, s3):
    run = Run(s3, folder)
    run.save(2)
    keys = [key for key in bucket.all_keys() if "step_00000002" in key]
    assert len(keys) == 4
    for number, key in enumerate(keys):
        good = bucket.get(key)
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        for bad in (flipped, *(good[:-1], good + b"x", bytes(len(good)), None, b"")[number % 2 :: 2]):
            bucket.client.delete_object(Bucket=bucket.name, Key=key) if bad is None else bucket.put(key, bad)
            assert run.loaded_step() == 1
            bucket.put(key, good)
    bucket.put("runs/checkpoints/step_00000002/foreign", b"")
    assert run.loaded_step() == 1
    bucket.client.delete_object(Bucket=bucket.name, Key="runs/checkpoints/step_00000002/foreign")
    assert run.loaded_step() == 2


def test_a_store_that_goes_away_is_no_reason_to_take_an_older_checkpoint(folder, s3):
    run = Run(s3, folder)
    run.save(2)
    with failing_requests() as requests:
        run.loaded_step()
    for at in range(0, requests.count, 2):
        tensors = uncut(blank(run.states[1]))
        with failing_requests(at, "down"), pytest.raises(CheckpointError) as caught:
            load_newest(folder, tensors, OneProcess(), storage=s3)
        assert isinstance(caught.value, UnreachableError)
        assert "no connection to http://127.0.0.1" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert gathered([tensors]).same_bits_as(blank(run.states[1]))
    with failing_requests(requests.count // 2, "down"), pytest.raises(UnreachableError):
        prune(folder, keep=2, storage=s3)
    for at in range(0, requests.count, 4):
        with failing_requests(at, "answer lost"):
            assert run.loaded_step() == 2


def test_what_deltas_depend_on_is_looked_after_in_a_store_as_well(folder, s3):
    run, watch = Run(s3, folder), DeltaWatch(s3, deltas=3)
    path = f"{folder}/step_00000001"
    watch.note(path)
    watch.settle()
    assert watch.fault() == ""
    s3.put(f"{path}/foreign", b"")
    assert watch.fault() == f"{path}/foreign: was changed after it had been saved"
    run.save(2)
    watch.note(f"{folder}/step_00000002")
    watch.settle()
    assert watch.fault() == ""
    s3.remove_folder(f"{folder}/step_00000002")
    assert watch.fault() == f"{folder}/step_00000002: is no longer there"
    watch.settle()


def test_a_stream_that_breaks_goes_on_where_it_broke(bucket, s3, monkeypatch):
    from botocore.exceptions import ResponseStreamingError
    from botocore.response import StreamingBody

    data = random.Random(0).randbytes(1000)
    bucket.put("file", data)
    real, reads = StreamingBody.readinto, []

    def breaking(body, buffer):
        reads.append(len(buffer))
        if len(reads) % 2 == 0:
            raise ResponseStreamingError(error="reset by peer")
        return real(body, memoryview(buffer)[:300])

    monkeypatch.setattr(StreamingBody, "readinto", breaking)
    assert s3.read(f"{bucket.url}/file", 100, 800) == data[100:900]
    assert reads == [800, 500, 500, 200, 200]
    monkeypatch.setattr(StreamingBody, "readinto", lambda *_: (_ for _ in ()).throw(ResponseStreamingError(error="x")))
    with pytest.raises(OSError, match="store cannot be used"):
        s3.read(f"{bucket.url}/file", 100, 800)


def test_a_checkpoint_is_saved_behind_training_and_what_fails_after_it_does_not_take_it_away(folder, s3, s3_settings):
    def fail(report):
        raise RuntimeError("no paper in the printer")

    state = random_state(3)
    saver = AsyncSaver(folder, OneProcess(), on_committed=fail)
    saver.save(1, uncut(state), {"epoch": 2})
    with pytest.raises(CheckpointError, match="was saved, but what follows a save failed"):
        saver.wait()
    checkpoint = open_checkpoint(f"{folder}/step_00000001/")
    assert (checkpoint.metadata, find_damage(checkpoint)) == ({"epoch": 2}, [])
    tensors = uncut(blank(state))
    load_tensors(checkpoint, tensors)
    assert all(same_bits(tensor.shards[0].tensor, state.values[tensor.name]) for tensor in tensors)
    with failing_requests(8, "down"):
        saver.save(2, uncut(state), {})
        saver.wait_here()
    with pytest.raises(CheckpointError, match=r"could not be saved: .*no connection to http"):
        saver.wait()
    assert steps_in(folder, s3) == [1]
