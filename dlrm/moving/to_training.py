"""Flags that say what is trained, how, and when it is scored."""

from __future__ import annotations

from collections.abc import Iterator

from dlrm.moving.lines import Command, Differs, Idle, Line, Setting

ALWAYS = (
    Differs(
        "initial weights: linear layers start as torch has them there, as in arXiv:1906.00091 here (tables within "
        "+-sqrt(1/rows) in both). No seed reaches them there; run.seed decides them here."
    ),
    Differs("checkpoints: that trainer saves none; here checkpoint.enabled false turns them off."),
)
"""What differs whatever the flags are."""


def epochs(command: Command) -> Iterator[Line]:
    """``--epochs``."""
    yield Setting("train.epochs", command["epochs"], command.shown("epochs"))


def batch_size(command: Command) -> Iterator[Line]:
    """``--batch_size``, of a rank there and of all here."""
    default = "" if "batch_size" in command.given else "default "
    shown = f"{default}--batch_size {command['batch_size']} of a rank x {command.ranks} ranks"
    yield Setting("train.global_batch_size", command.samples(1), shown)


def drop_last(command: Command) -> Iterator[Line]:
    """``--drop_last_training_batch``."""
    flag = "drop_last_training_batch"
    yield Setting("train.drop_last", command[flag], command.shown(flag))
    if not command[flag] and command.data != "random":
        yield Differs(
            "the last batch of an epoch: its gradient is the mean over its samples here; there ranks may hold unequal "
            "parts, and fewer samples than ranks go into the batch before."
        )


def test_batch_size(command: Command) -> Iterator[Line]:
    """``--test_batch_size``, of a rank there and of all here."""
    flag = "test_batch_size"
    if command[flag] is not None:
        shown = f"--{flag} {command[flag]} x {command.ranks} ranks"
        yield Setting("evaluation.global_batch_size", command.evaluated(1), shown)


def embedding_dim(command: Command) -> Iterator[Line]:
    """``--embedding_dim``."""
    yield Setting("model.embedding_dim", command["embedding_dim"], command.shown("embedding_dim"))


def bottom_mlp(command: Command) -> Iterator[Line]:
    """``--dense_arch_layer_sizes``."""
    flag = "dense_arch_layer_sizes"
    yield Setting("model.bottom_mlp", list(command[flag]), command.shown(flag))


def top_mlp(command: Command) -> Iterator[Line]:
    """``--over_arch_layer_sizes``."""
    flag = "over_arch_layer_sizes"
    yield Setting("model.top_mlp", list(command[flag]), command.shown(flag))


def interaction(command: Command) -> Iterator[Line]:
    """``--interaction_type``, and the flags of the interaction that it names."""
    kind = {"original": "dot"}.get(command["interaction_type"], command["interaction_type"])
    yield Setting("model.interaction.kind", kind, command.shown("interaction_type"))


def cross_layers(command: Command) -> Iterator[Line]:
    """``--dcn_num_layers``."""
    yield from _of_interaction(command, "dcn", "dcn_num_layers", "layers")


def cross_rank(command: Command) -> Iterator[Line]:
    """``--dcn_low_rank_dim``."""
    yield from _of_interaction(command, "dcn", "dcn_low_rank_dim", "rank")


def branch1(command: Command) -> Iterator[Line]:
    """``--interaction_branch1_layer_sizes``."""
    yield from _of_interaction(command, "projection", "interaction_branch1_layer_sizes", "branch1")


def branch2(command: Command) -> Iterator[Line]:
    """``--interaction_branch2_layer_sizes``."""
    yield from _of_interaction(command, "projection", "interaction_branch2_layer_sizes", "branch2")


def _of_interaction(command: Command, kind: str, flag: str, key: str) -> Iterator[Line]:
    value = command[flag]
    if command["interaction_type"] == kind:
        plain = list(value) if isinstance(value, tuple) else value
        yield Setting(f"model.interaction.{key}", plain, command.shown(flag))
    elif flag in command.given:
        yield Idle(f"--{flag}", f"--interaction_type is not {kind}")


def learning_rate(command: Command) -> Iterator[Line]:
    """``--learning_rate`` and ``--adagrad``: one optimizer and rate for MLPs and tables."""
    shown = f"{'--adagrad' if command['adagrad'] else 'no --adagrad'}, {command.shown('learning_rate')}"
    for part in ("dense", "sparse"):
        yield Setting(f"optim.{part}.kind", "adagrad" if command["adagrad"] else "sgd", shown)
        yield Setting(f"optim.{part}.lr", command["learning_rate"], shown)


def eps(command: Command) -> Iterator[Line]:
    """``--eps``, which MLPerf's trainer does not have: it is 1e-8 there."""
    if command["adagrad"]:
        shown = command.shown("eps") if command.trainer == "facebookresearch" else "fixed in MLPerf's trainer"
        for part in ("dense", "sparse"):
            yield Setting(f"optim.{part}.eps", command["eps"], shown)
    elif "eps" in command.given:
        yield Idle("--eps", "it is Adagrad's, and --adagrad is not given")


def warmup(command: Command) -> Iterator[Line]:
    """``--lr_warmup_steps``."""
    yield Setting("optim.schedule.warmup_steps", command["lr_warmup_steps"], command.shown("lr_warmup_steps"))


def decay_start(command: Command) -> Iterator[Line]:
    """``--lr_decay_start``, which counts with ``--lr_decay_steps`` only."""
    if command["lr_decay_steps"]:
        yield Setting("optim.schedule.decay_start_step", command["lr_decay_start"], command.shown("lr_decay_start"))
    elif command["lr_decay_start"] and not command["lr_warmup_steps"]:  # with a warm-up it has to be given
        yield Idle("--lr_decay_start", "without --lr_decay_steps nothing decays")


def decay(command: Command) -> Iterator[Line]:
    """``--lr_decay_steps``, and where that trainer's rate is not what its flags mean."""
    warm, start, steps = (command[flag] for flag in ("lr_warmup_steps", "lr_decay_start", "lr_decay_steps"))
    if not steps:
        return
    yield Setting("optim.schedule.decay_steps", steps, command.shown("lr_decay_steps"))
    yield Setting("optim.schedule.min_lr", 1e-7, "fixed in that trainer")
    base = command["learning_rate"]
    if (start > 1 and warm <= 1) or start + steps <= 1:
        yield Differs("rate: that trainer ends with an error before the first step (no rate before the decay starts).")
    elif start > warm:
        held = base * (warm - 1) / warm
        yield Differs(
            f"rate from step {warm} to {start - 1}: there it stays at {held:g}, the last of the warm-up; here it is the "
            f"whole {base:g}."
        )
    yield Differs(
        f"rate from step {start + steps} on: there it stays at {max(1e-7, base / steps**2):g}; here it is min_lr."
    )


def tf32(command: Command) -> Iterator[Line]:
    """``--allow_tf32``."""
    if command["allow_tf32"]:
        yield Setting("precision.tf32", True, command.shown("allow_tf32"))


def validation_freq(command: Command) -> Iterator[Line]:
    """``--validation_freq_within_epoch``; with the flag or without, when validation samples are scored."""
    flag = "validation_freq_within_epoch"
    every = command[flag]
    if every and not command.validates:
        yield Idle(f"--{flag}", "there is nothing to validate on")
    elif every:
        yield Setting("evaluation.every_steps", every, f"{command.shown(flag)}, steps of all ranks")
        if command["epochs"] > 1:
            yield Differs(
                "validation within epochs: steps are counted from the first epoch on, there from each epoch's start."
            )
    elif flag in command.given:
        yield Idle(f"--{flag}", "0 means never")


def epoch_end(command: Command) -> Iterator[Line]:
    """``--evaluate_on_epoch_end``; facebookresearch's trainer always does."""
    if command.validates and command.trainer == "mlperf" and not command["evaluate_on_epoch_end"]:
        yield Differs("validation: also after each epoch, which is there with --evaluate_on_epoch_end only.")


def training_end(command: Command) -> Iterator[Line]:
    """``--evaluate_on_training_end``; facebookresearch's trainer always does."""
    shown = command.shown("evaluate_on_training_end") if command.trainer == "mlperf" else "always, in that trainer"
    yield Setting(
        "evaluation.test", command.tests, shown if command.tests or command.trainer == "mlperf" else "no test rows"
    )


def target(command: Command) -> Iterator[Line]:
    """``--validation_auroc``, which counts at evaluations within an epoch only."""
    value = command["validation_auroc"]
    if value is None:
        return
    if not command["validation_freq_within_epoch"] or not command.validates:
        yield Idle(
            "--validation_auroc", "it is looked at within epochs only, and --validation_freq_within_epoch is not given"
        )
    else:
        yield Setting("evaluation.target_auc", value, f"--validation_auroc {value}")
