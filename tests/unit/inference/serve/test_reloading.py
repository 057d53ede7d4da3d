"""Exports that take the place of others."""

import gc
import json
import os
import shutil
import threading
import time
import weakref
from dataclasses import replace

import pytest

from dlrm.errors import ExportError
from dlrm.inference.exported.folder import open_export
from dlrm.inference.serve.models import ServedModel
from dlrm.inference.serve.reloading import Reloading
from tests.support.exports import export
from tests.support.serving import PATIENCE_S, ServerHere


@pytest.fixture(scope="module")
def other_export(tiny_run, tmp_path_factory):
    """The same run without the averages of its weights."""
    path = tmp_path_factory.mktemp("other") / "other"
    export(tiny_run, path, average=False)
    return path


def point(link, target):
    """``ln -sfn``, at once."""
    beside = link.with_name("beside")
    beside.symlink_to(target)
    os.replace(beside, link)


@pytest.fixture
def linked(tiny_export, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(tiny_export)
    return link, ServedModel.load("ctr", str(link), compiled=False)


def looked(model):
    told = []
    model.look(lambda name, good: told.append((name, good)))
    return told


def test_a_link_that_leads_elsewhere_is_another_export(linked, tiny_export, other_export, capsys):
    link, model = linked
    before = model.version
    assert looked(model) == []
    assert model.version is before
    point(link, other_export)
    assert looked(model) == [("ctr", True)]
    assert model.version.checksum == open_export(other_export).checksum != before.checksum
    said = capsys.readouterr().out
    assert "ctr is now step 8, 5 tables" in said
    assert before.checksum[:12] in said
    point(link, tiny_export)
    assert looked(model) == [("ctr", True)]
    assert model.version.checksum == before.checksum


def test_a_folder_that_is_replaced_is_another_export(tiny_export, other_export, tmp_path):
    folder = tmp_path / "ctr"
    shutil.copytree(tiny_export, folder)
    model = ServedModel.load("ctr", str(folder), compiled=False)
    shutil.rmtree(folder)
    shutil.copytree(other_export, folder)
    assert looked(model) == [("ctr", True)]
    assert model.version.checksum == open_export(other_export).checksum


@pytest.mark.parametrize("damage", ["no such folder", "a changed byte", "unfinished", "no export"])
def test_a_bad_export_leaves_the_old_one_and_is_told_once(linked, tiny_export, other_export, tmp_path, capsys, damage):
    link, model = linked
    before, bad = model.version, tmp_path / "bad"
    if damage == "no export":
        bad.mkdir()
    elif damage != "no such folder":
        shutil.copytree(other_export, bad)
        if damage == "unfinished":
            (bad / "COMMITTED").unlink()
        else:
            file = bad / "tables_0000.safetensors"
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
    point(link, bad)
    assert looked(model) == [("ctr", False)]
    assert model.version is before
    assert str(bad if damage != "no such folder" else link) in model.problem
    assert capsys.readouterr().out.count("stays at step 8") == 1
    assert looked(model) == []
    assert capsys.readouterr().out == ""
    if damage == "a changed byte":
        content[-1] ^= 1
        file.write_bytes(content)  # restored: the manifest is the same, the file is not
        assert looked(model) == [("ctr", True)]
        point(link, tiny_export)
        assert looked(model) == [("ctr", True)]
    before = model.version
    point(link, tiny_export)
    assert looked(model) == []
    assert (model.version, model.problem) == (before, "")
    if damage != "a changed byte":
        point(link, bad)
        assert looked(model) == [("ctr", False)]
    point(link, other_export)
    assert looked(model) == [("ctr", True)]
    assert model.problem == ""


def test_an_error_of_any_kind_leaves_the_old_one(linked, other_export, monkeypatch, capsys):
    link, model = linked
    point(link, other_export)

    def fail(*_, **__):
        raise MemoryError("no memory\x1b[2J")

    monkeypatch.setattr("dlrm.inference.serve.models.load_version", fail)
    assert looked(model) == [("ctr", False)]
    assert model.problem.endswith(r"MemoryError: no memory\x1b[2J")


def test_the_memory_of_an_export_that_was_replaced_is_given_back(linked, other_export):
    link, model = linked
    old = weakref.ref(model.version.predictor)
    point(link, other_export)
    gc.collect()
    gc.disable()
    try:
        looked(model)
        assert old() is None  # by reference counts alone: collections come seldom to what is large
    finally:
        gc.enable()


def test_rows_that_wait_for_the_export_before_are_counted_until_it_has_gone(linked, other_export):
    link, model = linked
    before = model.version.queue
    before.rows = 3
    point(link, other_export)
    assert looked(model) == [("ctr", True)]
    model.version.queue.rows = 2
    assert model.rows_waiting == 5
    del before
    gc.collect()
    assert model.rows_waiting == 2


def test_looks_come_by_themselves_and_when_asked_for(linked, other_export, tiny_export):
    link, model = linked
    told = threading.Semaphore(0)
    asked = Reloading({"ctr": model}, every_s=0, tell=lambda *_: told.release())
    point(link, other_export)
    assert not told.acquire(timeout=0.2)
    asked.ask()
    assert told.acquire(timeout=PATIENCE_S)
    asked.close()
    regular = Reloading({"ctr": model}, every_s=0.05, tell=lambda *_: told.release())
    point(link, tiny_export)
    assert told.acquire(timeout=PATIENCE_S)
    regular.close()


def test_no_request_is_lost_or_answered_by_two_exports_while_they_take_turns(linked, tiny_export, other_export):
    link, model = linked
    rows = [model.version.preprocessing.example() | {"int_0": number / 4} for number in range(40)]
    of_export = {}
    for path in (tiny_export, other_export):
        loaded = ServedModel.load("ctr", str(path), compiled=False).version
        found = loaded.predictor.probabilities(loaded.preprocessing.from_json(rows))[:, 0].numpy()
        of_export[loaded.checksum] = [str(number) for number in found]
    assert len(set(map(tuple, of_export.values()))) == 2
    wrong, seen, stop = [], set(), threading.Event()
    body = json.dumps({"rows": rows}).encode()

    def ask(server):
        while not stop.is_set():
            status, _, content = server.ask("POST", "/v1/models/ctr/predict", body, content_type="application/json")
            answer = json.loads(content, parse_float=str)
            if status != 200 or answer["probabilities"]["label"] != of_export[answer["export"]]:
                wrong.append((status, answer))
            seen.add(answer.get("export"))

    with ServerHere({"ctr": model}, reload_s=0.02, max_batch_rows=32, timeout_ms=60_000) as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(6):
            target = [other_export, tiny_export][turn % 2]
            point(link, target)
            deadline = time.monotonic() + PATIENCE_S
            while model.version.checksum != open_export(target).checksum and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert wrong == []
    assert seen == set(of_export)


def test_a_request_is_read_by_the_columns_of_the_export_that_answers_it(tiny_model):
    """A request in flight keeps its export; the next one meets other columns."""
    before = tiny_model.version

    class Renamed:
        def __getattr__(self, name):
            return getattr(before.preprocessing, name)

        def from_json(self, rows, **options):
            return before.preprocessing.from_json([{"int_0": row["price"]} | row_of(row) for row in rows], **options)

    def row_of(row):
        return {name: value for name, value in row.items() if name != "price"}

    model = ServedModel("default", tiny_model.path, False, before)
    old = before.preprocessing.example()
    new = {"price": old["int_0"]} | {name: value for name, value in old.items() if name != "int_0"}
    with ServerHere({"default": model}) as server:
        first = server.predict({"rows": [old]})
        assert server.predict({"rows": [new]})[0] == 422
        model.version = replace(before, preprocessing=Renamed())
        assert server.predict({"rows": [new]}) == first


def test_a_model_without_an_export_does_not_start(tmp_path):
    with pytest.raises(ExportError, match="there is no such folder"):
        ServedModel.load("ctr", str(tmp_path / "nothing"), compiled=False)
