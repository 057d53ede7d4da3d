"""Every flag of the two trainers, in one table: how it is read, its default there, and what becomes of it here.

A flag that a newer version of them adds is one more entry.
"""

from __future__ import annotations

from dlrm.moving import to_data, to_training
from dlrm.moving.flags import Flag, at_least, number, one_a_feature, one_of, path, sizes, text, whole

FLAGS = (
    # data
    Flag("in_memory_binary_criteo_path", path, None, "data.kind packed, data.path, data.bad_rows hash", to_data.source),
    Flag(
        "synthetic_multi_hot_criteo_path", path, None, "data.kind packed, data.path, data.multi_hot.kind files",
        to_data.multi_hot_source,
    ),
    Flag("dataset_name", text, "criteo_1t", "data.split.train", to_data.dataset_name),
    Flag("num_embeddings_per_feature", one_a_feature, None, "data.rows", to_data.rows),
    Flag("num_embeddings", at_least(1), 100_000, "data.rows, the same for all", to_data.rows_of_all),
    Flag("multi_hot_sizes", one_a_feature, None, "data.multi_hot.kind mlperf, data.multi_hot.hotness", to_data.bags),
    Flag(
        "multi_hot_distribution_type", one_of("uniform", "pareto"), None, "data.multi_hot.distribution",
        to_data.distribution,
    ),
    Flag(
        "limit_train_batches", at_least(1), None, "train.max_steps; data.split.train with several epochs; "
        "data.train_samples", to_data.training_batches,
    ),
    Flag(
        "limit_val_batches", at_least(0), None, "data.split.validation; data.validation_samples",
        to_data.validation_batches,
    ),
    Flag("limit_test_batches", at_least(0), None, "data.split.test; data.test_samples", to_data.test_batches),
    Flag("seed", whole, None, "run.seed; data.seed", to_data.seed),
    Flag("shuffle_training_set", None, False, "train.shuffle", to_data.shuffle),
    Flag("shuffle_batches", None, False, "no meaning: a step takes the mean over its batch, in any order of its rows"),
    Flag("mmap_mode", None, False, "no meaning: packed files are always memory-mapped"),
    Flag("pin_memory", None, False, "no meaning: batches for CUDA are always in page-locked memory"),
    Flag(
        "undersampling_rate", number, None, "no meaning: that trainer reads it and does nothing with it",
        trainer="facebookresearch",
    ),
    Flag(
        "collect_multi_hot_freqs_stats", None, False,
        "no counterpart: dlrm_main.py inspect shows how often rows of a packed data set occur",
    ),
    # model
    Flag("embedding_dim", at_least(1), 64, "model.embedding_dim", to_training.embedding_dim),
    Flag("dense_arch_layer_sizes", sizes, (512, 256, 64), "model.bottom_mlp", to_training.bottom_mlp),
    Flag("over_arch_layer_sizes", sizes, (512, 512, 256, 1), "model.top_mlp", to_training.top_mlp),
    Flag(
        "interaction_type", one_of("original", "dcn", "projection"), "original",
        "model.interaction.kind dot, dcn or projection", to_training.interaction,
    ),
    Flag("dcn_num_layers", at_least(1), 3, "model.interaction.layers", to_training.cross_layers),
    Flag("dcn_low_rank_dim", at_least(1), 512, "model.interaction.rank", to_training.cross_rank),
    Flag("interaction_branch1_layer_sizes", sizes, (2048, 2048), "model.interaction.branch1", to_training.branch1),
    Flag("interaction_branch2_layer_sizes", sizes, (2048, 2048), "model.interaction.branch2", to_training.branch2),
    # optimizer
    Flag("learning_rate", number, 15.0, "optim.dense.lr and optim.sparse.lr", to_training.learning_rate),
    Flag("adagrad", None, False, "optim.dense.kind and optim.sparse.kind adagrad; sgd without it", lambda _: iter(())),
    Flag("eps", number, 1e-8, "optim.dense.eps and optim.sparse.eps", to_training.eps, "facebookresearch"),
    Flag("lr_warmup_steps", whole, 0, "optim.schedule.warmup_steps", to_training.warmup),
    Flag("lr_decay_start", whole, 0, "optim.schedule.decay_start_step", to_training.decay_start),
    Flag("lr_decay_steps", whole, 0, "optim.schedule.decay_steps", to_training.decay),
    Flag("allow_tf32", None, False, "precision.tf32", to_training.tf32),
    # how long
    Flag("batch_size", at_least(1), 32, "train.global_batch_size: times the number of ranks", to_training.batch_size),
    Flag("epochs", at_least(1), 1, "train.epochs", to_training.epochs),
    Flag("drop_last_training_batch", None, False, "train.drop_last", to_training.drop_last),
    # evaluation
    Flag(
        "test_batch_size", at_least(1), None, "evaluation.global_batch_size: times the number of ranks",
        to_training.test_batch_size,
    ),
    Flag("validation_freq_within_epoch", at_least(0), None, "evaluation.every_steps", to_training.validation_freq),
    Flag("validation_auroc", number, None, "evaluation.target_auc", to_training.target, "mlperf"),
    Flag("evaluate_on_epoch_end", None, False, "data.split.validation", to_training.epoch_end, "mlperf"),
    Flag("evaluate_on_training_end", None, False, "evaluation.test", to_training.training_end, "mlperf"),
    # what is shown
    Flag("print_lr", None, False, "no meaning: rates are in metrics.jsonl and TensorBoard (logging.every_steps)"),
    Flag("print_sharding_plan", None, False, "no meaning: the plan is always shown, and kept in plan.txt"),
    Flag("print_progress", None, False, "no meaning: progress is shown unless logging.progress is false", trainer="mlperf"),
)  # fmt: skip

REMOVED = {
    "change_lr": "it changed the rate within an epoch; leave it out, and see --lr_decay_start and --lr_decay_steps",
    "lr_change_point": "it belonged to --change_lr; leave it out",
    "lr_after_change_point": "it belonged to --change_lr; leave it out",
    "dlrmv2": "write --interaction_type dcn",
    "drop_last": "write --drop_last_training_batch",
    "multi_hot_size": "write --multi_hot_sizes",
    "multi_hot_min_table_size": "write --multi_hot_sizes",
}
"""Flags of older versions of facebookresearch's trainer, with what to write in their place."""
