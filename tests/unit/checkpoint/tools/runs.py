"""A run's checkpoints to look at, and the commands as a person calls them."""

from dlrm.checkpoint.tools.commands import run_checkpoint_command
from dlrm.checkpoint.tools.importing import run_import
from dlrm.command.arguments import parse
from dlrm.config.checkpoint_commands import ImportConfig
from tests.unit.checkpoint.states import State, cut_up, random_state, save_ranks

SHAPES = {
    "tables.cat_0.weight": ((100, 8), "float32"),
    "tables.cat_0.optimizer.sum": ((100,), "float32"),
    "tables.cat_1.weight": ((5, 8), "float16"),
    "bottom_mlp.linears.0.weight": ((4, 3), "float32"),
    "bottom_mlp.linears.0.weight.optimizer.exp_avg": ((4, 3), "float64"),
    "top_mlp.dropouts.0.steps": ((), "int64"),
    "average.steps": ((), "int64"),
    "average.tables.cat_0.weight": ((100, 8), "float32"),
}
WEIGHTS = ["tables.cat_0.weight", "tables.cat_1.weight", "bottom_mlp.linears.0.weight", "top_mlp.dropouts.0.steps"]


def a_state(seed=0, shapes=None) -> State:
    return random_state(seed, shapes or SHAPES)


def some_metadata(step, **others):
    return {
        "position": {"epoch": 1, "batch": 3, "step": step, "samples": 2560 * step, "epoch_ended": False},
        "config": {"run": {"name": "x", "seed": 7}, "optim": {"lr": 1e-5}},
        "plan": [],
        "metrics": {"log_loss": 0.45, "auc": 0.75},
        "best": {"metric": "auc", "value": 0.8},
        "reason": "every 10 steps",
        "ranks": 2,
        "time": 1_700_000_000.0,
        "versions": {"torch": "2.13.0"},
    } | others


def save(folder, step, state, *, world_size=2, seed=3, **metadata):
    return save_ranks(folder, step, cut_up(state, seed, world_size), some_metadata(step, **metadata))


def flip(path, at=-1):
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def command(capsys, *words):
    """What ``dlrm_main.py checkpoint <words>`` prints."""
    config = parse(["checkpoint", *map(str, words)]).config()
    if isinstance(config, ImportConfig):
        run_import(config)
    else:
        run_checkpoint_command(config)
    return capsys.readouterr().out


def cells(line):
    """The columns of a table's line, which are at least two spaces apart."""
    return [cell for cell in line.strip().split("  ") if cell]
