"""What the tables of an export are to be: from what the user says to a precision for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlrm.config.quantise import ALL, TablePrecision
from dlrm.errors import ConfigError, ConfigProblem, ExportError
from dlrm.format import did_you_mean, escaped
from dlrm.inference.exported.folder import ExportFolder
from dlrm.inference.exported.manifest import DensePrecision, Manifest, Precision


def require_float32(folder: ExportFolder) -> None:
    """See that an export was not quantised yet: what was lost is not to be had back from it.

    Raises:
        ExportError: it was.
    """
    manifest = folder.manifest
    precisions = sorted({table.precision for table in manifest.tables})
    if precisions != ["fp32"] or manifest.dense_precision != "fp32":
        problem = f"is quantised already (tables {', '.join(precisions)}; dense {manifest.dense_precision})"
        raise ExportError(str(folder.path), problem, hint="name the export in float32 that it was made of")


def precisions_of(manifest: Manifest, wanted: Mapping[str, TablePrecision]) -> tuple[Precision, ...]:
    """The precision of each table; int8 in the place of int4 where a row has an odd number of columns.

    Args:
        manifest: of the export.
        wanted: by name of the table; ``*`` stands for all that are not named, which else are fp32.

    Raises:
        ConfigError: names that no table has.
    """
    names = [table.name for table in manifest.named_tables]
    problems = []
    for name in wanted:
        if name not in (*names, ALL):
            hint = did_you_mean(name, names) or f"there are {escaped(', '.join(names), 200)}"
            problems.append(ConfigProblem(f"tables.{escaped(name)}", "", f"is no table of the export; {hint}"))
    if problems:
        raise ConfigError(problems)
    rest = wanted.get(ALL, "fp32")
    return tuple(
        possible(wanted.get(name, rest), table.dim) for name, table in zip(names, manifest.tables, strict=True)
    )


def possible(precision: Precision, dim: int) -> Precision:
    """Two int4 numbers share a byte."""
    return "int8" if precision == "int4" and dim % 2 else precision


def odd_tables(manifest: Manifest, wanted: Mapping[str, TablePrecision]) -> list[str]:
    """Which tables are int8 although int4 was asked for, in words."""
    return [
        f"{escaped(name)}: int8 in the place of int4, which takes an even number of columns ({table.dim} here)"
        for name, _, table in manifest.named_tables
        if table.dim % 2 and wanted.get(name, wanted.get(ALL)) == "int4"
    ]


def lowered_manifest(manifest: Manifest, precisions: Sequence[Precision], dense: DensePrecision) -> Manifest:
    """The manifest of a quantised export, without files yet."""
    tables = tuple(
        table.model_copy(update={"precision": precision})
        for table, precision in zip(manifest.tables, precisions, strict=True)
    )
    compiled = manifest.compiled if dense == "fp32" else None
    return manifest.model_copy(update={"tables": tables, "dense_precision": dense, "compiled": compiled, "files": ()})


def require_something_to_do(
    precisions: Sequence[Precision], dense: DensePrecision, budget: float | None = None
) -> None:
    """See that anything becomes smaller.

    Args:
        precisions: of the tables.
        dense: precision of the dense part.
        budget: with which the tables' were chosen, if they were.

    Raises:
        ConfigError: nothing does.
    """
    if set(precisions) == {"fp32"} and dense == "fp32":
        if budget is not None:
            message = f"is {budget:g}, and no mix of tables in fewer bits keeps it: nothing to do; allow a larger rise"
            raise ConfigError.at("budget", message)
        message = "leaves all tables and the dense part in fp32: nothing to do; set tables or dense to fewer bits"
        raise ConfigError.at("tables", message)
