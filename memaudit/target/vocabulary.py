"""Rows that an adapter adds to the embeddings of its base, if fine-tuning added tokens.

Knows the names by which PEFT saves whole embeddings. Knows nothing about how models are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memaudit.target.refusals import refusal
from memaudit.target.weight_files import stored_shapes

_WHOLE = ("", "base_layer.", "original_module.", "modules_to_save.")
"""Infixes between an embedding's name and ``weight`` in adapters that save it whole."""


def fit_vocabulary(base: Any, adapter: Path, name: str) -> None:
    """Give the base's embeddings as many rows as the adapter has saved of them.

    Args:
        base: model under the adapter.
        adapter: weights file of the adapter.
        name: name that the user gave the adapter.

    Raises:
        TargetError: one embedding was saved with a size other than its base's, and the other not
            at all, so that its new rows are missing.
    """
    tables = _tables(base)
    shapes = stored_shapes(name, adapter)
    rows = {table: _saved_rows(shapes, table) for table in tables}
    sizes = {saved for saved in rows.values() if saved is not None}
    grown = sizes - set(tables.values())
    if not grown:
        return
    lacking = [table for table, saved in rows.items() if saved is None]
    if len(sizes) > 1 or (lacking and not _tied(base)):
        fault = f"holds no {lacking[0]} for it" if lacking else "holds another size of the other"
        raise refusal(
            name,
            f"the adapter was saved with a vocabulary of {max(grown):,}, its base has "
            f"{max(tables.values()):,}, and it {fault}; save it again with its embeddings",
        )
    base.resize_token_embeddings(grown.pop(), mean_resizing=False)


def _tables(base: Any) -> dict[str, int]:
    """Return the rows of the input and the output embedding, by dotted name."""
    embeddings = [base.get_input_embeddings(), base.get_output_embeddings()]
    return {
        name: int(module.weight.shape[0])
        for name, module in base.named_modules()
        if any(module is embedding for embedding in embeddings)
    }


def _saved_rows(shapes: Mapping[str, tuple[int, ...]], table: str) -> int | None:
    """Return the rows of an embedding saved whole in the adapter; None if it was not."""
    for between in _WHOLE:
        if shape := shapes.get(f"base_model.model.{table}.{between}weight"):
            return shape[0] or None
    return None


def _tied(base: Any) -> bool:
    head = base.get_output_embeddings()
    return head is None or head.weight is base.get_input_embeddings().weight
