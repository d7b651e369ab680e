"""Cells of Arrow's columns. Their texts may be no UTF-8: Arrow's readers let that pass."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types


def is_text(type: pa.DataType) -> bool:
    """Whether cells are strings or bytes."""
    kinds = pyarrow.types
    if kinds.is_dictionary(type):
        type = type.value_type
    return any(
        test(type)
        for test in (kinds.is_string, kinds.is_large_string, kinds.is_binary, kinds.is_large_binary)
    )


def value(cell: pa.Scalar) -> Any:
    """As Python has it; a text that is not UTF-8, also within a list or a record, as its bytes."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        if isinstance(cell, pa.DictionaryScalar):
            return value(cell.value)
        if isinstance(cell, pa.StructScalar):
            return {name: value(part) for name, part in cell.items()}
        if is_text(cell.type):
            return cell.as_buffer().to_pybytes()
        return [value(part) for part in cell.values]


def values(column: pa.ChunkedArray) -> list[Any]:
    """`value` of all."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [value(cell) for cell in column]


def plain(value: Any) -> Any:
    """To be shown, or to name a sample: bytes as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def update(digest: Any, column: pa.ChunkedArray) -> None:
    """Feed a hash with the cells, however they are split into chunks: lengths, then contents."""
    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        digest.update(pc.fill_null(pc.list_value_length(column), -1).to_numpy())
        column = pc.list_flatten(column)
    if not is_text(column.type):
        column = column.cast(pa.string())
    column = column.cast(pa.large_binary())
    digest.update(pc.fill_null(pc.binary_length(column), -1).to_numpy())
    for chunk in pc.fill_null(column, b"").chunks:
        _, offsets, texts = chunk.buffers()
        offsets = np.frombuffer(offsets, np.int64)[chunk.offset :][: len(chunk) + 1]
        if texts is not None and len(chunk):
            digest.update(texts[int(offsets[0]) : int(offsets[-1])])
