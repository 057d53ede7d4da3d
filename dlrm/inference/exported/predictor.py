"""From features to logits and probabilities: an export in memory."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from pydantic import ValidationError

from dlrm.checkpoint.manifest import MANIFEST_NAME, first_fault
from dlrm.checkpoint.safetensors_format import parse
from dlrm.errors import ConfigError, ExportError
from dlrm.inference.exported.folder import ExportFolder, open_export
from dlrm.inference.exported.manifest import COMPILED_NAME, PROGRAM_NAME, RESTORE, VOCABULARIES_NAME, Manifest
from dlrm.inference.exported.program import Dense, as_function, load_compiled, load_program, require_answer
from dlrm.inference.exported.tables import Lookup, read_tables
from dlrm.inference.exported.tiles import padded, pieces_of
from dlrm.inference.features import Features
from dlrm.inference.raw import Preprocessing


class Predictor:
    """An export that answers; threads may share one, and each call computes with torch's threads of the calling thread.

    Args:
        folder: the export.
        preprocessing: what comes before its tables; lookup: the tables; dense: what follows them.

    Attributes:
        manifest, schema: what it takes and predicts; preprocessing: makes features of raw rows.
    """

    def __init__(self, folder: ExportFolder, preprocessing: Preprocessing, lookup: Lookup, dense: Dense) -> None:
        self.folder = folder
        self.preprocessing = preprocessing
        self.manifest: Manifest = folder.manifest
        self.schema = folder.manifest.columns
        self._lookup = lookup
        self._dense = dense

    def logits(self, features: Features) -> torch.Tensor:
        """The logits of rows, float32 (B, T).

        Args:
            features: as the schema says, ids within their tables (:func:`dlrm.inference.features.check_features`); any
                number of rows.
        """
        return self._in_pieces(features, self._padded_logits)

    def probabilities(self, features: Features) -> torch.Tensor:
        """The probabilities of rows, float32 (B, T)."""
        # With the padding: the last elements of a tensor take another path through a vectorised function.
        return self._in_pieces(features, lambda piece: self._padded_logits(piece).sigmoid_())

    @torch.no_grad()
    def _in_pieces(self, features: Features, of_piece: Callable[[Features], torch.Tensor]) -> torch.Tensor:
        found = [of_piece(piece)[: len(piece)] for piece in pieces_of(features)]
        if len(found) == 1:
            return found[0]
        return torch.cat(found) if found else torch.empty(0, len(self.schema.tasks))

    def _padded_logits(self, features: Features) -> torch.Tensor:
        dense_BN = padded(features.dense_BN)
        return self._dense(dense_BN, self._lookup(features, len(dense_BN)))


def open_predictor(path: str | os.PathLike[str], *, compiled: bool = False) -> Predictor:
    """Read an export into memory; every byte of it is verified.

    Args:
        path: its folder.
        compiled: run AOTInductor's machine code instead of the program. It is code: only of exports that you trust.

    Raises:
        ExportError: it is none, not whole, of another version, or cannot be used here.
    """
    return load_predictor(open_export(path), compiled=compiled)


def load_predictor(folder: ExportFolder, *, compiled: bool = False) -> Predictor:
    """See :func:`open_predictor`."""
    path = str(folder.path / (COMPILED_NAME if compiled else PROGRAM_NAME))
    if compiled:
        record = folder.manifest.compiled
        if folder.manifest.file(COMPILED_NAME) is None or record is None:
            hint = "export it with --compile true, or do without compiled code"
            raise ExportError(str(folder.path), "holds no compiled code", hint=hint)
        folder.read(COMPILED_NAME)  # verifies it
        dense = load_compiled(path, record)
    else:
        dense = as_function(load_program(folder.read(PROGRAM_NAME), path))
    require_answer(dense, folder.manifest, path)
    return Predictor(folder, load_preprocessing(folder), Lookup(folder.manifest, read_tables(folder)), dense)


def load_preprocessing(folder: ExportFolder) -> Preprocessing:
    """What makes features of raw rows, without the rest of the export.

    Raises:
        ExportError: it is not what was written.
    """
    arrays: dict[str, torch.Tensor] = {}
    if folder.manifest.file(VOCABULARIES_NAME) is not None:
        data, path = folder.read(VOCABULARIES_NAME), str(folder.path / VOCABULARIES_NAME)
        try:
            entries = parse(data, len(data))
        except ValueError as error:
            raise ExportError(path, str(error), hint=RESTORE) from None
        arrays = {
            name: torch.frombuffer(bytearray(data[entry.start : entry.stop]), dtype=entry.dtype).view(entry.shape)
            if entry.start < entry.stop
            else torch.empty(entry.shape, dtype=entry.dtype)
            for name, entry in entries.items()
        }
    manifest_path = str(folder.path / MANIFEST_NAME)
    try:
        preprocessing = Preprocessing.load(folder.manifest.preprocessing, arrays)
    except (ConfigError, ValidationError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise ExportError(manifest_path, f"preprocessing: {fault}", hint=RESTORE) from None
    if preprocessing.schema != folder.manifest.columns:
        problem = "its raw rows become other columns than its tables and its program take"
        raise ExportError(manifest_path, problem, hint=RESTORE)
    return preprocessing
