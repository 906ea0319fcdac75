"""The rows that an adapter gives the embeddings of its base, where fine-tuning added tokens.

Knows the names by which PEFT saves whole embeddings. Knows nothing of how either model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memaudit.errors import TargetError
from memaudit.target.weight_files import stored_shapes

_WHOLE = ("", "base_layer.", "original_module.", "modules_to_save.")
"""What may stand between an embedding's name and ``weight`` where it was saved whole."""


def fit_vocabulary(base: Any, adapter: Path, name: str) -> None:
    """Give the base's embeddings as many rows as the adapter has saved of them.

    Args:
        base: the model that the adapter will be put over.
        adapter: its file of weights.
        name: as the user named it.

    Raises:
        TargetError: one embedding was saved in another size than its base has, and the other not
            at all, so that its new rows are nowhere to be had.
    """
    tables = _tables(base)
    shapes = stored_shapes(name, adapter)
    rows = {table: _saved_rows(shapes, table) for table in tables}
    found = {saved for saved in rows.values() if saved is not None}
    grown = found - set(tables.values())
    if not grown:
        return
    lacking = [table for table, saved in rows.items() if saved is None]
    if len(found) > 1 or (lacking and not _tied(base)):
        said = f"holds no {lacking[0]} for it" if lacking else "holds another number of rows beside"
        raise TargetError(
            f"{name}: the adapter was saved with a vocabulary of {max(grown):,}, its base has "
            f"{max(tables.values()):,}, and it {said}; save it again with its embeddings"
        )
    base.resize_token_embeddings(grown.pop(), mean_resizing=False)


def _tables(base: Any) -> dict[str, int]:
    """Dotted name to rows, of the input and the output embedding."""
    wanted = [base.get_input_embeddings(), base.get_output_embeddings()]
    return {
        name: int(module.weight.shape[0])
        for name, module in base.named_modules()
        if any(module is one for one in wanted)
    }


def _saved_rows(shapes: Mapping[str, tuple[int, ...]], table: str) -> int | None:
    """Rows of an embedding as the adapter saved it whole; None where it did not."""
    for between in _WHOLE:
        if shape := shapes.get(f"base_model.model.{table}.{between}weight"):
            return shape[0] or None
    return None


def _tied(base: Any) -> bool:
    head = base.get_output_embeddings()
    return head is None or head.weight is base.get_input_embeddings().weight
