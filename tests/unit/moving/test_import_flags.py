"""Command lines of facebookresearch/dlrm's torchrec trainer and of MLPerf's fork as configurations."""

import subprocess
import sys
from pathlib import Path

import pytest

from dlrm.command.arguments import parse
from dlrm.config import load_config
from dlrm.config.moving import ImportFlagsConfig
from dlrm.errors import ConfigError
from dlrm.moving.job import configuration_of
from dlrm.moving.table import FLAGS
from dlrm.optim.schedule import learning_rate
from tests.unit.moving.command_lines import FACEBOOKRESEARCH, HOTNESS, MLPERF, REFUSED_THERE, ROWS_40M

ROOT = Path(__file__).resolve().parents[3]
DAYS = ("--in_memory_binary_criteo_path", "days")
BOTH = (
    *(
        "epochs",
        "batch_size",
        "drop_last_training_batch",
        "test_batch_size",
        "limit_train_batches",
        "limit_val_batches",
    ),
    *("limit_test_batches", "dataset_name", "num_embeddings", "num_embeddings_per_feature", "dense_arch_layer_sizes"),
    *("over_arch_layer_sizes", "embedding_dim", "interaction_branch1_layer_sizes", "interaction_branch2_layer_sizes"),
    *("dcn_num_layers", "dcn_low_rank_dim", "seed", "pin_memory", "mmap_mode", "in_memory_binary_criteo_path"),
    *("synthetic_multi_hot_criteo_path", "learning_rate", "shuffle_batches", "shuffle_training_set"),
    *(
        "validation_freq_within_epoch",
        "adagrad",
        "interaction_type",
        "collect_multi_hot_freqs_stats",
        "multi_hot_sizes",
    ),
    *("multi_hot_distribution_type", "lr_warmup_steps", "lr_decay_start", "lr_decay_steps", "print_lr", "allow_tf32"),
    "print_sharding_plan",
)
FACEBOOKRESEARCH_ALONE = {"eps", "undersampling_rate"}
MLPERF_ALONE = {"validation_auroc", "evaluate_on_epoch_end", "evaluate_on_training_end", "print_progress"}


def text_of(*words, ranks=2, trainer="auto"):
    return configuration_of(ImportFlagsConfig(command_line=words, ranks=ranks, trainer=trainer))


def loaded(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    return load_config(tmp_path / "config.yaml")


def config_of(tmp_path, *words, **kwargs):
    return loaded(text_of(*words, **kwargs), tmp_path)


def said(*words, **kwargs):
    with pytest.raises(ConfigError) as caught:
        text_of(*words, **kwargs)
    return str(caught.value)


def values(config, paths):
    found = {}
    for path in paths:
        node = config
        for part in path.split("."):
            node = getattr(node, part)
        found[path] = node
    return found


@pytest.mark.parametrize(
    "known",
    [
        *(pytest.param(known, id=f"facebookresearch: {name}") for name, known in FACEBOOKRESEARCH.items()),
        *(pytest.param(known, id=f"MLPerf: {name}") for name, known in MLPERF.items()),
    ],
)
def test_a_command_line_of_a_readme_becomes_the_configuration_worked_out_by_hand(known, tmp_path):
    config = config_of(tmp_path, *known.words, ranks=known.ranks)
    assert values(config, known.becomes) == known.becomes


@pytest.mark.parametrize("known", MLPERF.values(), ids=MLPERF)
def test_mlperfs_trainer_evaluates_only_when_asked(known, tmp_path):
    config = config_of(tmp_path, *known.words, ranks=known.ranks, trainer="mlperf")
    within_epochs = "--validation_freq_within_epoch" in known.words
    assert config.evaluation.test is False
    if config.data.kind == "packed":
        assert bool(config.data.split.validation) is within_epochs
        assert config.data.split.test == ()
    else:
        assert (config.data.validation_samples, config.data.test_samples) == (0, 0)


@pytest.mark.parametrize("words", REFUSED_THERE.values(), ids=REFUSED_THERE)
def test_flags_of_older_versions_are_refused_with_what_to_write(words):
    ranks = None if words[0] == "torchx" else 8
    assert "--change_lr: is no flag of that trainer any more: it changed the rate within an epoch" in said(
        *words, ranks=ranks
    )


def test_the_flags_are_those_of_the_two_trainers():
    names = {
        trainer: {flag.name for flag in FLAGS if flag.trainer == trainer}
        for trainer in (None, "facebookresearch", "mlperf")
    }
    assert names == {None: set(BOTH), "facebookresearch": FACEBOOKRESEARCH_ALONE, "mlperf": MLPERF_ALONE}


OTHERS = {  # a value that is not the default, with what else it takes to be meant
    "in_memory_binary_criteo_path": "days", "synthetic_multi_hot_criteo_path": "days", "dataset_name": "criteo_kaggle",
    "num_embeddings_per_feature": ROWS_40M, "multi_hot_sizes": HOTNESS, "multi_hot_distribution_type": "pareto",
    "dense_arch_layer_sizes": "128,64", "over_arch_layer_sizes": "16,1", "interaction_type": "dcn", "eps": "1e-4",
    "interaction_branch1_layer_sizes": "64", "interaction_branch2_layer_sizes": "64", "learning_rate": "0.5",
    "validation_auroc": "0.8", "undersampling_rate": "0.5", "embedding_dim": "64",
}  # fmt: skip
NEEDS = {
    "multi_hot_sizes": ("--num_embeddings_per_feature", ROWS_40M, "--multi_hot_distribution_type", "uniform"),
    "collect_multi_hot_freqs_stats": (
        *("--num_embeddings_per_feature", ROWS_40M, "--multi_hot_distribution_type", "uniform"),
        *("--multi_hot_sizes", HOTNESS),
    ),
    "lr_warmup_steps": ("--lr_decay_start", "7"),
}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_no_flag_is_passed_over_in_silence(flag):
    given = (f"--{flag.name}",) if flag.read is None else (f"--{flag.name}", OTHERS.get(flag.name, "7"))
    needed = NEEDS.get(flag.name, ())
    assert text_of(*needed, *given) != text_of(*needed)
    if flag.mapped is None:
        assert f"# - --{flag.name}: {flag.becomes}"[:60] in text_of(*needed, *given)


def test_the_settings_that_the_table_names_are_options(tmp_path):
    from dlrm.config import Config
    from dlrm.config.describe import options

    paths = {option.path for option in options(Config)}
    for flag in FLAGS:
        if flag.mapped is not None:
            named = {word.strip(",;:") for word in flag.becomes.split() if "." in word}
            assert named, flag.name
            assert named <= paths, flag.name


def test_the_page_for_those_who_move_names_every_flag_with_what_it_becomes():
    page = " ".join((ROOT / "docs/moving.md").read_text().replace("`", "").split())
    for flag in FLAGS:
        assert f"| --{flag.name} | {flag.becomes} |" in page, flag.name


@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [
        ("torchx run -s slurm dist.ddp -j 2x8 --script dlrm_main.py --", 16),
        ("torchx run dist.ddp -j=4 --script dlrm_main.py --", 4),
        ("torchx run dist.ddp -j 2:2x4 --script dlrm_main.py --", 8),
        ("torchx run -s local_cwd dist.ddp --script dlrm_main.py --", 2),  # torchx's default, 1x2
        ("torchx run aws_component.py:run_dlrm_main --num_trainers 16 --", 16),
        ("torchx run aws_component.py:run_dlrm_main --", 8),
        ("torchrun --nproc_per_node 8 --nnodes 2 torchrec_dlrm/dlrm_main.py", 16),
        ("OMP_NUM_THREADS=4 torchrun --nproc-per-node=8 --nnodes=2:2 dlrm_main.py", 16),
        ("torchrun dlrm_main.py", 1),
        ("torchrun --nproc_per_node 3 -m torchrec_dlrm.dlrm_main --in_memory_binary_criteo_path /data/torchx", 3),
        ("python -m torch.distributed.run --nnodes 2 --node_rank 1 --nproc_per_node 4 dlrm_main.py", 8),
    ],
)
def test_the_number_of_ranks_is_the_launchers(launcher, ranks, tmp_path):
    words = [*launcher.split(), "--batch_size", "10", "--test_batch_size", "7"]
    config = config_of(tmp_path, *words, ranks=None)
    assert (config.train.global_batch_size, config.evaluation.global_batch_size) == (10 * ranks, 7 * ranks)
    assert text_of(" ".join(words), ranks=None) == text_of(*words, ranks=ranks)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--batch_size 4", "the command line has no launcher"),
        ("python dlrm_main.py --batch_size 4", "the command line has no torchx or torchrun"),
        ("torchx run dist.ddp -j 1:2x8 --script dlrm_main.py", "-j 1:2x8 leaves the number of hosts open"),
        ("torchrun --nnodes 1:4 --nproc_per_node 8 dlrm_main.py", "--nnodes 1:4 leaves the number of hosts open"),
        ("torchrun --nproc_per_node gpu dlrm_main.py", "--nproc_per_node gpu depends on the host"),
        ("torchx run mine.py:train --", "torchx has no -j"),
    ],
)
def test_where_nothing_says_the_number_of_ranks_it_is_asked_for_and_not_guessed(words, why, tmp_path):
    line = said(*words.split(), ranks=None)
    assert line.startswith(
        f"number of ranks: {why}, and --batch_size is that of one rank: give their number before the --"
    )
    assert config_of(tmp_path, *words.split(), ranks=8).train.global_batch_size in (32, 256)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "torchrun --nproc_per_node 8 dlrm_main.py",
            "--ranks: is 2, the command line starts 8 (--nnodes 1 --nproc_per_node 8)",
        ),
        ("torchx run dist.ddp -j 1y8 --script dlrm_main.py", "-j: is 1y8, must be hosts x processes such as 1x8"),
        ("torchx run dist.ddp -j 1x0 --script dlrm_main.py", "-j: is 1x0, which starts nothing"),
        (
            "torchx run a.py:run_dlrm_main --num_trainers 12 --",
            "--num_trainers: is 12: above 8 it must be a multiple of 8",
        ),
        ("nohup bash", "command line: names no dlrm_main.py, and 'nohup' is no flag"),
    ],
)
def test_a_launcher_that_makes_no_sense_is_refused(words, line):
    assert line in said(*words.split())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--adagard", "--adagard: unknown flag of that trainer; did you mean --adagrad?"),
        ("--learning_rat0 3", "--learning_rat0: unknown flag of that trainer; did you mean --learning_rate?"),
        ("--lr 3", "--lr: may be --lr_warmup_steps or --lr_decay_start or --lr_decay_steps: write it in full"),
        ("-e 3", "-e: is no flag"),
        ("extra", "names no dlrm_main.py"),
        ("--epochs 1 2", "2: is no flag, and that trainer takes nothing else"),
        ("--epochs", "--epochs: has no value"),
        ("--epochs --adagrad", "--epochs: has no value"),
        ("--adagrad=yes", "--adagrad: takes no value, and has 'yes'"),
        ("--batch_size 1e3", "--batch_size: is 1e3, must be a whole number"),
        ("--batch_size 0", "--batch_size: is 0, must be 1 or more"),
        ("--limit_val_batches -1", "--limit_val_batches: is -1, must be 0 or more"),
        ("--eps x", "--eps: is x, must be a number"),
        ("--dense_arch_layer_sizes 512,,64", "--dense_arch_layer_sizes: is 512,,64, must be whole numbers with commas"),
        ("--dense_arch_layer_sizes 0,64", "--dense_arch_layer_sizes: is 0,64, must be numbers of 1 or more"),
        ("--dense_arch_layer_sizes 512,32", "--dense_arch_layer_sizes: ends with 32, --embedding_dim is 64"),
        ("--over_arch_layer_sizes 1", "--over_arch_layer_sizes: has one layer"),
        ("--over_arch_layer_sizes 8,2", "--over_arch_layer_sizes: ends with 2, must end with 1"),
        ("--interaction_type cat", "--interaction_type: is cat, must be one of original, dcn, projection"),
        (
            "--interaction_type projection --interaction_branch1_layer_sizes 100",
            "--interaction_branch1_layer_sizes: ends with 100, must be a multiple of --embedding_dim (64)",
        ),
        ("--num_embeddings_per_feature 3,4", "--num_embeddings_per_feature: has 2 numbers, must have 26"),
        ("--dataset_name avazu", "--dataset_name: is avazu, must be criteo_1t or criteo_kaggle"),
        ("--in_memory_binary_criteo_path=", "--in_memory_binary_criteo_path: is empty (an unset variable?)"),
        (
            "--in_mem a --synth b",
            "--synthetic_multi_hot_criteo_path: and --in_memory_binary_criteo_path exclude each other",
        ),
        (f"--multi_hot_sizes {HOTNESS} --synth b", "--multi_hot_sizes: makes multi-hot ids of one-hot ones"),
        (f"--multi_hot_sizes {HOTNESS}", "--multi_hot_sizes: needs --num_embeddings_per_feature"),
        (
            "--multi_hot_distribution_type normal",
            "--multi_hot_distribution_type: is normal, must be one of uniform, pareto",
        ),
        ("--collect_multi_hot_freqs_stats", "--collect_multi_hot_freqs_stats: needs --multi_hot_sizes"),
        ("--shuffle_training_set --synth b", "--shuffle_training_set: is not implemented for"),
        ("--seed -1", "--seed: is -1, must be from 0 to 4294967295"),
        ("--lr_warmup_steps 100", "--lr_warmup_steps: is 100, beyond --lr_decay_start 0"),
        ("--validation_auroc 0.8 --eps 1e-3", "--validation_auroc: is a flag of MLPerf's trainer alone, --eps of"),
        ("--learning_rate 0", "--learning_rate 0.0: optim.dense.lr: is 0.0, must be greater than 0"),
        ("--learning_rate nan", "optim.dense.lr: is"),
        ("--lr_warmup_steps -5", "--lr_warmup_steps -5: optim.schedule.warmup_steps: is -5"),
        (
            f"--validation_auroc 0.4 --validation_freq 3 {' '.join(DAYS)}",
            "--validation_auroc 0.4: evaluation.target_auc: is 0.4",
        ),
    ],
)
def test_what_the_trainer_refuses_or_this_one_cannot_is_a_line_that_names_the_flag(words, line):
    assert line in said(*words.split())


def test_all_mistakes_are_told_at_once():
    lines = said("--adagard", "--batch_size", "x", "--bogus", "3").splitlines()
    assert len(lines) == 4


def test_a_flag_of_the_other_trainer_than_the_one_named_is_refused():
    assert "--eps: is unknown to mlperf's trainer" in said("--eps", "1", trainer="mlperf")
    assert "--print_progress: is unknown to facebookresearch's" in said("--print_progress", trainer="facebookresearch")


def test_flags_may_be_shortened_and_the_later_value_counts(tmp_path):
    config = config_of(tmp_path, "--learning", "-1", "--learn=0.25", "--batch", "1", "--batch_size", "3")
    assert (config.optim.dense.lr, config.train.global_batch_size) == (0.25, 6)


def test_a_limit_of_training_batches_counts_in_every_epoch(tmp_path):
    limit = ("--limit_train_batches", "1000", "--batch_size", "64")
    assert config_of(tmp_path, *DAYS, *limit).train.max_steps == 1000
    several = config_of(tmp_path, *DAYS, *limit, "--epochs", "3")
    assert (several.data.split.train, several.train.max_steps) == (("day_0[:128000]",), None)  # 1000 x 64 x 2 ranks
    shuffled = config_of(tmp_path, *DAYS, *limit, "--epochs", "3", "--shuffle_training_set")
    assert (shuffled.train.max_steps, shuffled.train.shuffle) == (3000, True)


@pytest.mark.parametrize(
    ("batches", "parts"),
    [
        (100_000_000, ("day_0..day_0", "day_1[:4158017]")),  # 200,000,000 - 195,841,983
        (97_920_991, ("day_0[:195841982]",)),
        (97_920_992, ("day_0..day_0", "day_1[:1]")),  # 195,841,984 of 195,841,983
        (2_097_598_846, ("day_0..day_22",)),  # all 4,195,197,692
        (9_000_000_000, ("day_0..day_22",)),
    ],
)
def test_the_first_rows_of_several_days_are_cut_at_the_right_row(batches, parts, tmp_path):
    words = ("--limit_train_batches", str(batches), "--batch_size", "1", "--epochs", "2")
    assert config_of(tmp_path, *DAYS, *words).data.split.train == parts


def test_limits_of_evaluations_cut_the_halves_of_the_last_day(tmp_path):
    words = ("--limit_val_batches", "10", "--limit_test_batches", "5", "--test_batch_size", "100")
    split = config_of(tmp_path, *DAYS, *words).data.split
    assert (split.validation, split.test) == (("day_23[:2000]",), ("day_23[89137319:89138319]",))
    none = config_of(tmp_path, *DAYS, "--limit_val_batches", "0", "--limit_test_batches", "0")
    assert (none.data.split.validation, none.data.split.test, none.evaluation.test) == ((), (), False)
    beyond = config_of(tmp_path, *DAYS, "--limit_val_batches", "9000000", "--limit_test_batches", "9000000").data.split
    assert (beyond.validation, beyond.test) == (("day_23[:0.5]",), ("day_23[0.5:]",))


def test_a_stop_at_an_auc_counts_within_epochs_only(tmp_path):
    words = (*DAYS, "--validation_auroc", "0.8")
    assert config_of(tmp_path, *words, "--validation_freq", "10").evaluation.target_auc == 0.8
    assert config_of(tmp_path, *words).evaluation.target_auc is None
    assert "--validation_auroc: it is looked at within epochs only" in text_of(*words)


def test_the_schedule_is_the_one_that_the_flags_mean_and_its_faults_are_named(tmp_path):
    words = ["--learning_rate", "8", "--lr_warmup_steps", "4", "--lr_decay_start", "6", "--lr_decay_steps", "4"]
    schedule = config_of(tmp_path, *words).optim.schedule
    # linear to step 4, held to 6, then 8 * ((4 - k) / 4)^2 for k = 1, 2, 3, then the minimum
    expected = [2, 4, 6, 8, 8, 8, 4.5, 2, 0.5, 1e-7, 1e-7]
    assert [learning_rate(schedule, 8.0, step) for step in range(1, 12)] == pytest.approx(expected)
    text = text_of(*words)
    assert "rate from step 4 to 5: there it stays at 6, the last of the warm-up; here it is the whole 8." in text
    assert "rate from step 10 on: there it stays at 0.5; here it is min_lr." in text


def test_a_warm_up_without_decay_differs_in_nothing(tmp_path):
    words = ["--lr_warmup_steps", "100", "--lr_decay_start", "100"]
    schedule = config_of(tmp_path, *words).optim.schedule
    assert (schedule.warmup_steps, schedule.decay_start_step, schedule.decay_steps) == (100, None, None)
    assert "rate" not in text_of(*words).partition("run:")[0]


def test_a_decay_that_ends_that_trainer_at_its_start_is_named():
    assert "that trainer ends with an error before the first step" in text_of(
        "--lr_decay_start", "5", "--lr_decay_steps", "4"
    )


def test_paths_and_values_that_yaml_would_read_otherwise_come_out_as_given(tmp_path):
    for path in ("a: b #c", "123", "true", "päck ed", "x\u202ey\n", "'q\"", "- {a}"):
        assert config_of(tmp_path, "--in_memory_binary_criteo_path", path).data.path == path


def test_the_command_takes_the_words_after_two_dashes_as_they_are():
    config = parse(["import-flags", "--ranks", "8", "--", "python", "dlrm_main.py", "--", "--x=1", ""]).config()
    assert config == ImportFlagsConfig(command_line=("python", "dlrm_main.py", "--", "--x=1", ""), ranks=8)


@pytest.mark.parametrize("words", [[], ["--ranks", "8"], ["torchx", "run", "--", "--adagrad"]])
def test_a_command_line_without_two_dashes_before_it_is_asked_for_again(words):
    with pytest.raises(ConfigError, match="import-flags takes the other program's command line after --"):
        parse(["import-flags", *words])


def test_the_command_answers_without_loading_torch_or_numpy():
    program = (
        "import sys, dlrm_main\n"
        "assert dlrm_main.main(['import-flags', '--ranks', '2', '--', '--adagrad']) == 0\n"
        "assert not {'torch', 'numpy', 'torchrec', 'fbgemm_gpu'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "    kind: adagrad  # --adagrad, default of --learning_rate" in done.stdout
