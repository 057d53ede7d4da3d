"""Rows as a ``.npy`` file: one structured array, a field for each column.

What is missing is NaN in a field of floats, and empty in a field of text. Nothing is unpickled, and no memory is asked for
that the body does not fill.
"""

from __future__ import annotations

import io
import math
import sys
import tokenize

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy_format

from dlrm.inference.features import Features
from dlrm.inference.raw import Preprocessing
from dlrm.inference.serve.bodies.rows import check_rows
from dlrm.inference.serve.refusal import Refusal

_MAX_HEADER = 1 << 16
_HINT = "send numpy.save of a one-dimensional structured array with a field for each column"


def npy_features(body: bytes, preprocessing: Preprocessing, most_rows: int) -> Features:
    """See :data:`dlrm.inference.serve.bodies.Parse`."""
    rows, kind, start = _header(body)
    if kind.names is None or kind.hasobject or not kind.itemsize:
        raise Refusal(422, "bad_rows", f"the array is of type {str(kind)[:80]!a}", hint=_HINT)
    check_rows(rows, most_rows)
    if len(body) - start != rows * kind.itemsize:
        problem = f"{rows} rows of {kind.itemsize} bytes are announced, {len(body) - start} bytes follow"
        raise Refusal(400, "bad_request", f"the file is cut short or too long: {problem}", hint=_HINT)
    array = np.frombuffer(body, kind, rows, start)
    fields = {name: _as_arrow(array[name], name) for name in kind.names}
    return preprocessing.from_arrow(pa.table(fields))


def _header(body: bytes) -> tuple[int, np.dtype, int]:
    """Rows, type and where the rows begin."""
    file = io.BytesIO(body)
    try:
        version = npy_format.read_magic(file)
        read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}[version]
        shape, fortran_order, kind = read(file, max_header_size=_MAX_HEADER)
    except KeyError:
        raise Refusal(415, "media_type", "the npy file is of a version other than 1.0 and 2.0", hint=_HINT) from None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        problem = f"the body is no npy file ({type(error).__name__}: {str(error)[:100]})"
        raise Refusal(400, "bad_request", problem, hint=_HINT) from None
    if len(shape) != 1 or fortran_order or not isinstance(shape[0], int) or not 0 <= shape[0] < math.inf:
        raise Refusal(422, "bad_rows", f"the array has shape {str(shape)[:80]}", hint=_HINT)
    return shape[0], kind, file.tell()


def _as_arrow(values: np.ndarray, name: str) -> pa.Array:
    """A field as a column; one with a second dimension is a column of lists."""
    try:
        if values.ndim == 2:
            inner = pa.array(np.ascontiguousarray(values).reshape(-1))
            offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
            return pa.ListArray.from_arrays(pa.array(offsets), inner)
        if values.ndim == 1 and values.dtype.kind == "S":
            return pa.array([text.decode() or None for text in values.tolist()], pa.string())
        if values.ndim == 1 and values.dtype.kind == "U":
            _check_characters(values)
            return pa.array([text or None for text in values.tolist()], pa.string())
        if values.ndim == 1 and values.dtype.kind in "iufb":
            native = values.astype(values.dtype.newbyteorder("="))
            return pa.array(native, from_pandas=values.dtype.kind == "f")
    except (pa.ArrowException, UnicodeError, ValueError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {str(error)[:100]})"
        raise Refusal(422, "bad_rows", problem, column=name, hint=_HINT) from None
    problem = f"is of type {str(values.dtype)[:60]!a} with {values.ndim} dimensions"
    raise Refusal(422, "bad_rows", problem, column=name, hint="send numbers, or text (S or U)")


def _check_characters(values: np.ndarray) -> None:
    """Numpy makes text of whatever numbers are there, and Python fails at it.

    Raises:
        ValueError: one is no character.
    """
    native = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))
    if native.dtype.itemsize and native.view(np.uint32).max(initial=0) > sys.maxunicode:
        raise ValueError("a number beyond Unicode's characters")
