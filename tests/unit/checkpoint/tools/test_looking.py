"""What list, show and verify say, of whole, damaged and hostile checkpoints."""

import os
import re
import shutil

import pytest
import yaml

from dlrm.checkpoint import paths
from dlrm.checkpoint.manifest import COMMITTED_NAME
from dlrm.checkpoint.storage import LocalStorage
from dlrm.checkpoint.tools import commands
from dlrm.errors import CheckpointError
from tests.unit.checkpoint.delta.deltas import normal_state, save_delta, stepped
from tests.unit.checkpoint.states import cut_up, save_ranks, small_chunks
from tests.unit.checkpoint.tools.runs import a_state, cells, command, flip, save


@pytest.fixture
def run(tmp_path):
    for step in (10, 20):
        save(tmp_path / "run" / "checkpoints", step, a_state(step))
    return tmp_path / "run"


def lines_of(text, name):
    return [line for line in text.splitlines() if name in line]


def test_list_has_a_line_for_each_checkpoint_the_newest_first(run, capsys, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    shown = lines_of(command(capsys, "list", run), "step_")
    assert [re.match(r"\s*(\S+)", line)[1] for line in shown] == ["step_00000020", "step_00000010"]
    found = [cell.strip() for cell in cells(shown[0])]
    size = sum(file.stat().st_size for file in (run / "checkpoints" / "step_00000020").glob("*.safetensors"))
    assert found[1:4] == ["20", "1", "51,200"]
    assert found[4].startswith("2023-11-1")
    assert found[5:] == ["every 10 steps", f"{size / 1024:.1f} KiB", "2", "auc 0.75", "auc 0.8", "committed"]


@pytest.mark.parametrize("which", ["run", "run/", "run/checkpoints", "run/checkpoints/step_00000020/"])
def test_a_run_its_folder_and_a_checkpoint_are_accepted_everywhere(run, which, capsys):
    path = str(run.parent / which) + ("/" if which.endswith("/") else "")
    assert "step_00000020" in command(capsys, "list", path)
    assert "step_00000020" in command(capsys, "show", path)
    assert "step_00000020: whole" in command(capsys, "verify", path)


def test_the_home_folder_may_be_short(run, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    assert "step_00000020" in command(capsys, "list", "~/run")


def test_of_validations_the_last_is_shown(tmp_path, capsys):
    history = [[5, {"auc": 0.5}], [10, {"auc": 0.6, "log_loss": 0.4}]]
    save(tmp_path, 10, a_state(), metrics={"validation": history, "loss_sum": 3.5, "last_loss": None}, best=None)
    assert "auc 0.6 " in lines_of(command(capsys, "list", tmp_path), "step_")[0]
    assert re.search(r"^metrics +auc 0.6, log_loss 0.4, loss_sum 3.5 *$", command(capsys, "show", tmp_path), re.M)


def test_list_says_what_became_of_what_is_no_checkpoint(run, capsys):
    folder = run / "checkpoints"
    for name in ("step_00000030.tmp-0123456789abcdef", "step_00000031.dead-0123456789abcdef", "step_00000040", "other"):
        (folder / name).mkdir()
    (folder / "step_00000032.damaged-0123456789abcdef").mkdir()
    (folder / "step_00000050").symlink_to(folder / "step_00000010")
    next((folder / "step_00000010").glob("*.safetensors")).unlink()
    (folder / "step_00000020").rename(folder / "step_00000021")
    shown = command(capsys, "list", run)
    assert "other" not in shown
    for name, state in (
        ("step_00000030.tmp", "not committed: being written, or left by an interrupted save"),
        ("step_00000031.dead", "not committed: about to be removed"),
        ("step_00000032.damaged", "damaged: set aside"),
        ("step_00000040", "not committed"),
        ("step_00000050", "damaged: no folder, but a file or a link"),
        ("step_00000021", "damaged: is of step 20"),
        ("step_00000010", "damaged: rank_"),
    ):
        position = shown.index(name)
        following = " ".join(shown[position:].partition("step_0000")[2].split("step_")[0].split())
        assert state in " ".join(following.split()), name


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("s3://", "s3://: names no bucket; write s3://bucket/folder"),
        ("s3:///", "s3:///: names no bucket; write s3://bucket/folder"),
        ("gs:///runs/a", "gs:///runs/a: names no bucket; write gs://bucket/folder"),
        ("s3:/bucket/a", "s3:/bucket/a: has one slash where a URL has two; write s3://bucket/folder"),
        (
            "s3://a b/c",
            "s3://a b/c: names the bucket 'a b', and no bucket can have that name; write s3://bucket/folder",
        ),
        ("sftp://", "sftp://: names no folder; write sftp://host/folder"),
        ("file://", "file://: names no folder; write file:///folder"),
    ],
)
@pytest.mark.parametrize("words", [["list"], ["show"], ["verify"], ["export", "--output", "x"], ["diff", "here"]])
def test_an_address_that_names_nothing_is_one_line(words, address, line, tmp_path, monkeypatch, capsys):
    save(tmp_path / "here", 10, a_state())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as refused:
        command(capsys, *words, address)
    assert str(refused.value) == line


def test_list_of_an_empty_folder_says_so(tmp_path, capsys):
    assert command(capsys, "list", tmp_path) == f"{tmp_path} holds no checkpoints\n"


@pytest.fixture
def chain(tmp_path):
    """A full checkpoint and two deltas."""
    state = normal_state(0)
    folder = tmp_path / "chain"
    paths = [save_ranks(folder, 10, cut_up(state, 0, 2))]
    for step, bits in ((15, 32), (20, 8)):
        rows = {"a": [1, 2, 30], "b": [0, 19]}
        state = stepped(state, step, rows)
        paths.append(save_delta(folder, step, state, rows, base=paths[0], parent=paths[-1], bits=bits))
    return paths


def test_deltas_are_shown_as_what_they_are(chain, capsys):
    shown = command(capsys, "list", chain[0].parent)
    assert cells(lines_of(shown, "step_00000020")[0])[-1].strip() == "delta of step 15"
    assert cells(lines_of(shown, "step_00000015")[0])[-1].strip() == "delta of step 10"
    shown = command(capsys, "show", chain[0].parent)
    assert re.search(r"^kind +delta of step 15 *$", shown, re.MULTILINE)
    assert "restored with step 10 and the deltas between; 8 bits" in shown
    assert "touched.a.0_0.rows" in shown
    assert "a delta of step 15: the state that it restores is compared" in command(capsys, "diff", *chain[1:])


def test_a_delta_without_what_it_depends_on_is_damaged(chain, capsys):
    chain[1].rename(chain[1].parent / "step_00000016")
    shown = " ".join(command(capsys, "list", chain[0].parent).split())
    assert "damaged: depends on step_00000015, which is not whole" in shown
    with pytest.raises(CheckpointError, match="damaged"):
        command(capsys, "verify", chain[2])
    assert "depends on step_00000015, which is not whole" in capsys.readouterr().out


def test_verify_of_a_delta_reads_all_that_it_depends_on_once(chain, capsys):
    shown = command(capsys, "verify", chain[2]).splitlines()
    assert sorted(line.partition(": whole")[0] for line in shown) == sorted(map(str, chain))
    assert len(command(capsys, "verify", chain[2], chain[2].parent).splitlines()) == 3
    flip(next(chain[0].glob("*.safetensors")))
    with pytest.raises(CheckpointError, match=r"step_00000010.*1 fault in 3 checkpoints"):
        command(capsys, "verify", chain[2])


def test_verify_sees_rows_that_cannot_be_applied(chain, capsys):
    def unsorted(tensors, record):
        rows = tensors["touched.b.0_0.rows"].shards[0].tensor
        rows.copy_(rows.flip(0))

    state = normal_state(1)
    rows = {"a": [1], "b": [3, 4]}
    path = save_delta(chain[0].parent, 25, state, rows, base=chain[0], parent=chain[0], change=unsorted)
    with pytest.raises(CheckpointError, match="1 fault in 2 checkpoints"):
        command(capsys, "verify", path)
    assert "touched.b.0_0.rows are not rows 0 .. 19 in increasing order" in capsys.readouterr().out


def test_show_lists_tables_with_rows_width_type_and_bytes(run, capsys):
    shown = command(capsys, "show", run)
    by_table = {cells(line)[0].strip(): cells(line)[1:] for line in shown.splitlines() if line.strip()[:4] == "cat_"}
    assert [cell.strip() for cell in by_table["cat_0"]] == ["100", "8", "float32", "3.1 KiB", "400 B", "sum"]
    assert [cell.strip() for cell in by_table["cat_1"]] == ["5", "8", "float16", "80 B", "0 B"]
    others = [cells(line)[0].strip() for line in shown.partition("Other tensors")[2].splitlines() if " B" in line]
    assert "bottom_mlp.linears.0.weight.optimizer.exp_avg" in others
    assert not any(name.startswith("tables.") for name in others)
    assert "epoch 1, batch 3, samples 51,200" in shown


def test_show_passes_over_what_is_not_good_and_says_so(run, capsys):
    (run / "checkpoints" / "step_00000020" / COMMITTED_NAME).unlink()
    shown = command(capsys, "show", run)
    assert re.search(r"passed over: .*step_00000020: is no committed checkpoint", shown)
    assert re.search(r"^checkpoint +.*step_00000010$", shown, re.MULTILINE)


def test_show_config_is_yaml_alone(run, capsys):
    shown = command(capsys, "show", run, "--config")
    assert yaml.safe_load(shown) == {"run": {"name": "x", "seed": 7}, "optim": {"lr": 1e-5}}


def test_nothing_in_a_checkpoint_reaches_the_terminal_as_it_is(tmp_path, capsys):
    evil = "\x1b[31m\x07[bold red]\u202e\n"
    metadata = {
        "reason": evil,
        "config": {evil: evil},
        "metrics": {evil: evil},
        "best": {"metric": evil, "value": evil},
        "versions": {evil: {evil: 1}},
        "position": evil,
        "time": 1e300,
    }
    save(tmp_path, 10, a_state(shapes={"tables.[red]x[/red].weight": ((3, 4), "float32")}), **metadata)
    (tmp_path / "step_00000011.tmp-\x1b[31m").mkdir()
    shown = [command(capsys, "list", tmp_path), command(capsys, "show", tmp_path)]
    shown += [command(capsys, "show", tmp_path, "--config"), command(capsys, "diff", tmp_path, tmp_path)]
    for text in shown:
        assert text.replace("\n", "").isprintable()
    assert "[red]x[/red]" in shown[1]
    assert r"\x1b[31m\x07[bold red]\u202e\n" in shown[1]


@pytest.mark.parametrize("value", [None, "x", [], {}, True, 1e400, -(10**30), {"step": {}}])
def test_metadata_of_any_type_are_shown_as_unknown_at_worst(tmp_path, value, capsys):
    value = None if value == 1e400 else value
    names = ("reason", "config", "metrics", "best", "versions", "position", "time", "increment", "ranks")
    save(tmp_path, 10, a_state(), **dict.fromkeys(names, value))
    assert "step_00000010" in command(capsys, "list", tmp_path)
    assert "step_00000010" in command(capsys, "show", tmp_path / "step_00000010")


def test_verify_names_every_damage_and_fails(run, monkeypatch, capsys):
    small_chunks(monkeypatch)
    path = save(run / "checkpoints", 30, a_state(30))
    files = sorted(path.glob("*.safetensors"))
    flip(files[0], 20)
    flip(files[0])
    flip(files[1])
    with pytest.raises(CheckpointError, match=r"3 faults in 3 checkpoints, all listed above"):
        command(capsys, "verify", run)
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if files[0].name in line and "does not begin as it was written" in line]
    assert sum("are not those that were written" in line for line in shown) == 2
    assert [line.partition(": ")[2][:5] for line in shown if "whole" in line] == ["whole", "whole"]


def test_verify_of_a_folder_does_not_mind_interrupted_saves_but_a_named_one_has_to_be_committed(run, capsys):
    (run / "checkpoints" / "step_00000030").mkdir()
    assert command(capsys, "verify", run).count(": whole") == 2
    with pytest.raises(CheckpointError, match="step_00000030: damaged"):
        command(capsys, "verify", run / "checkpoints" / "step_00000030", run)
    shown = capsys.readouterr().out
    assert "is no committed checkpoint" in shown
    assert shown.count(": whole") == 2


class Going(LocalStorage):
    """A run goes on meanwhile: before a file of a checkpoint is read for the first time, something happens to that."""

    def __init__(self, happens):
        self.happens, self.looked = happens, False

    def size(self, path):
        if not self.looked and "step_00000010/manifest" in path:
            self.looked = True
            self.happens(os.path.dirname(path))
        return super().size(path)


def discarded(path):
    os.rename(path, f"{path}.dead-{'0a' * 8}")


def half_removed(path):
    os.unlink(f"{path}/{COMMITTED_NAME}")  # as in a store without names for folders
    os.unlink(next(f"{path}/{name}" for name in os.listdir(path) if "safetensors" in name))


@pytest.mark.parametrize("happens", [shutil.rmtree, discarded, half_removed])
@pytest.mark.parametrize("words", [["verify"], ["list"]])
def test_what_pruning_removes_meanwhile_is_no_damage(run, happens, words, capsys, monkeypatch):
    storage = Going(happens)
    monkeypatch.setattr(paths, "located", lambda path, given=None: (storage, str(path)))
    shown = command(capsys, *words, run)
    assert storage.looked
    assert "step_00000020" in shown
    assert "damaged" not in shown
    assert "missing" not in shown


def test_what_pruning_removes_while_its_bytes_are_read_is_no_damage(run, capsys, monkeypatch):
    find = commands.find_damage

    def removed_first(checkpoint, told):
        if checkpoint.step == 10:
            shutil.rmtree(checkpoint.path)
        return find(checkpoint, told)

    monkeypatch.setattr(commands, "find_damage", removed_first)
    shown = command(capsys, "verify", run).splitlines()
    assert [line.rpartition("/")[2].partition(" (")[0] for line in shown] == [
        "step_00000020: whole",
        "step_00000010: passed over, it was removed meanwhile",
    ]
    save(run / "checkpoints", 10, a_state())
    with pytest.raises(CheckpointError, match="holds no committed checkpoint any more"):
        command(capsys, "verify", run / "checkpoints" / "step_00000010")


def test_what_is_committed_while_it_is_looked_at_is_no_damage(run, capsys, monkeypatch):
    checkpoints = run / "checkpoints"
    unfinished = checkpoints / "step_00000010" / f"{COMMITTED_NAME}.unfinished"
    unfinished.touch()  # as a listing may show the old name and the new one while a file is renamed
    monkeypatch.setattr(paths, "located", lambda path, given=None: (storage, str(path)))
    storage = Going(lambda path: unfinished.unlink())
    assert command(capsys, "verify", run).count(": whole") == 2


@pytest.mark.parametrize("which", ["list", "show", "verify"])
def test_a_path_that_is_none_is_one_line(which, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, why in (("nothing", "there is no such folder"), ("file", "is a file")):
        with pytest.raises(CheckpointError, match=why) as caught:
            command(capsys, which, tmp_path / name)
        assert "\n" not in str(caught.value)
    if which != "list":
        with pytest.raises(CheckpointError, match=r"holds no (good|committed) checkpoint"):
            command(capsys, which, tmp_path / "empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_one_line(run, capsys):
    (run / "checkpoints").chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        command(capsys, "list", run)
