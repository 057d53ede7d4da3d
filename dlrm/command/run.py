"""From a command's configuration to the code that does it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

from dlrm.config import Config
from dlrm.config.base import Section
from dlrm.config.bench_inference import BenchInferenceConfig
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.config.calibrate import CalibrateConfig
from dlrm.config.checkpoint_commands import CheckpointCommand, DiffConfig, ImportConfig, ListConfig, ShowConfig
from dlrm.config.diagnose import DiagnoseConfig
from dlrm.config.evaluate import EvaluateRequest
from dlrm.config.experiment import ScaleConfig
from dlrm.config.export import ExportRequest
from dlrm.config.moving import ImportFlagsConfig
from dlrm.config.plan import PlanConfig
from dlrm.config.predict import PredictConfig
from dlrm.config.prepare import InspectConfig, MaterializeConfig, PackConfig, PreprocessConfig, SynthesizeConfig
from dlrm.config.quantise import QuantiseConfig
from dlrm.config.scaling_report import ReportConfig
from dlrm.config.serve import ServeConfig
from dlrm.config.status import StatusConfig
from dlrm.config.study import StudyConfig
from dlrm.signals import raise_on_ctrl_c
from dlrm.streams import outlive_reader

_WITH_TORCH = (
    Config,
    CalibrateConfig,
    EvaluateRequest,
    ExportRequest,
    PredictConfig,
    QuantiseConfig,
    ServeConfig,
    BenchInferenceConfig,
)
_OWN_LOG = (ImportConfig, ServeConfig)
_ONLY_PRINTS = (StatusConfig, InspectConfig, ListConfig, ShowConfig, DiffConfig, ImportFlagsConfig)


def run(config: Section) -> None:
    """Do what the configuration is for.

    Raises:
        DlrmError: what the user can mend.
    """
    if not isinstance(config, _ONLY_PRINTS):
        outlive_reader()
    work: Callable[[], object]
    # Imports make a million objects that stay: looking for garbage among them takes a sixth of the start, and would later
    # hold up a step now and then, on this rank and then on all that wait for it.
    gc.disable()
    if isinstance(config, _WITH_TORCH):
        from dlrm.distributed.versions import check_versions

        check_versions()  # before an import of libraries that do not fit each other fails
        if not isinstance(config, _OWN_LOG):
            from dlrm.run.log import capture_logs

            capture_logs()
    # A command imports what it needs and no more: preprocess starts without torchrec, training without pyarrow.
    match config:
        case ImportConfig():  # before Config, which it extends
            from dlrm.checkpoint.tools.importing import run_import

            work = partial(run_import, config)
        case BenchmarkConfig():  # so does this
            from dlrm.scaling.benchmark.job import run_benchmark

            work = partial(run_benchmark, config)
        case CalibrateConfig():
            from dlrm.scaling.calibrate.job import run_calibration

            work = partial(run_calibration, config)
        case PlanConfig():  # and this
            from dlrm.scaling.plan.job import run_plan

            work = partial(run_plan, config)
        case DiagnoseConfig():  # and this
            from dlrm.diagnose.job import run_diagnosis

            work = partial(run_diagnosis, config)
        case EvaluateRequest():
            from dlrm.inference.evaluate.job import run_evaluation

            work = partial(run_evaluation, config)
        case ScaleConfig():
            from dlrm.scaling.experiments.job import run_scale

            work = partial(run_scale, config)
        case StudyConfig():
            from dlrm.studies.job import run_study

            work = partial(run_study, config)
        case Config():
            from dlrm.train.job import run_training

            work = partial(run_training, config)
        case ExportRequest():
            from dlrm.inference.export.job import run_export

            work = partial(run_export, config)
        case BenchInferenceConfig():
            from dlrm.inference.benchmark.job import run_bench_inference

            work = partial(run_bench_inference, config)
        case ServeConfig():
            from dlrm.inference.serve.job import run_serve

            work = partial(run_serve, config)
        case PredictConfig():
            from dlrm.inference.predict.job import run_predict

            work = partial(run_predict, config)
        case QuantiseConfig():
            from dlrm.inference.quantise.job import run_quantise

            work = partial(run_quantise, config)
        case ReportConfig():
            from dlrm.scaling.report.job import run_report

            work = partial(run_report, config)
        case StatusConfig():
            from dlrm.run.status.job import run_status

            work = partial(run_status, config)
        case PreprocessConfig():
            from dlrm.preprocess.job import run_preprocess

            work = partial(run_preprocess, config)
        case PackConfig():
            from dlrm.dataset_tools.pack import run_pack

            work = partial(run_pack, config)
        case InspectConfig():
            from dlrm.dataset_tools.inspect import run_inspect

            work = partial(run_inspect, config)
        case MaterializeConfig():
            from dlrm.dataset_tools.materialize import run_materialize

            work = partial(run_materialize, config)
        case SynthesizeConfig():
            from dlrm.dataset_tools.synthesize import run_synthesize

            work = partial(run_synthesize, config)
        case ImportFlagsConfig():
            from dlrm.moving.job import run_import_flags

            work = partial(run_import_flags, config)
        case _ if isinstance(config, CheckpointCommand):
            from dlrm.checkpoint.tools.commands import run_checkpoint_command

            work = partial(run_checkpoint_command, config)
        case _:
            raise AssertionError(type(config))
    gc.freeze()
    gc.enable()
    raise_on_ctrl_c()
    work()
