"""Exports with tables in fewer bits."""

from pathlib import Path

import torch

from dlrm.inference.export.write import FolderWriter
from dlrm.inference.exported.folder import open_export
from dlrm.inference.exported.manifest import PROGRAM_NAME
from dlrm.inference.exported.rows import stored_rows


def lowered(source: Path, output: Path, precision: str) -> Path:
    """An export with tables in another precision, by the shortest way."""
    folder = open_export(source)
    before, where = folder.manifest, {"path": "", "table": ""}
    tables = tuple(table.model_copy(update={"precision": precision}) for table in before.tables)
    after = before.model_copy(update={"tables": tables})
    output.mkdir()
    writer = FolderWriter(output)
    writer.add(PROGRAM_NAME, folder.read(PROGRAM_NAME))
    for file in before.files:
        if file.pieces is None:
            continue
        data, (_, entries) = folder.read(file.name), before.table_layout(file.pieces)
        rows = [
            torch.frombuffer(bytearray(data[entry.start : entry.stop]), dtype=torch.float32).view(entry.shape)
            for entry in entries
        ]
        stored = {
            after.piece_name(piece): stored_rows(values, precision, **where)
            for piece, values in zip(file.pieces, rows, strict=True)
        }
        writer.add_tensors(file.name, stored)
        writer.files[-1] = writer.files[-1].model_copy(update={"pieces": file.pieces})
    writer.commit(after.model_copy(update={"files": tuple(writer.files)}))
    return output
