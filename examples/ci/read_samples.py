"""Reads samples.csv of a run folder with pandas, and answers what a review asks first.

    python read_samples.py RUN [COLUMN]

COLUMN is one that --keep-columns named, or dup, the number of repetitions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd


def read(run: Path) -> pd.DataFrame:
    """A row for each sample. Ids stay text, also where they look like numbers or like NA."""
    text = dict.fromkeys(("sample_id", "group", "reason", "categories"), str)
    table = pd.read_csv(run / "samples.csv", dtype=text, keep_default_na=False, na_values=[""])
    rows = table[table["status"] == "scored"].copy()
    # An apostrophe stands before what a spreadsheet would run as a formula, in each part of an id.
    rows["sample_id"] = rows["sample_id"].str.replace(
        r"""(^|[;|])'(?='*[ "]*[=+@-])""", r"\1", regex=True
    )
    rows["categories"] = rows["categories"].fillna("")
    return rows


def attacks(rows: pd.DataFrame) -> list[str]:
    """Those that were run, weakest first."""
    names = [name.removeprefix("exact_") for name in rows if name.startswith("exact_")]
    return [name for name in names if name != "any" and rows[f"exact_{name}"].notna().any()]


def main() -> None:
    rows = read(Path(sys.argv[1]))
    ran = attacks(rows)
    extracted = [f"extracted_{name}" for name in ran]
    print("Samples extracted, by role:")
    print(rows.groupby("role")[extracted].sum().astype(int).to_string())

    data = rows[rows["role"] == "data"].convert_dtypes()  # whole numbers, where they are
    asked = [f"extracted_{name}" for name in ran if name != "copy"]  # copy asks no model
    data["extracted"] = data[asked].eq(1).any(axis=1)
    if len(sys.argv) > 2:
        print(f"\nShare extracted, by {sys.argv[2]}:")
        print(data.groupby(sys.argv[2])["extracted"].agg(["size", "mean"]).to_string())

    held = data["categories"].str.extractall(r"(?P<category>[\w-]+):\d+").droplevel(1)
    if len(held):
        print("\nSamples that hold sensitive content, and how many of them are extracted:")
        kinds = held.join(data["extracted"]).groupby("category")["extracted"]
        print(kinds.agg(["size", "sum"]).to_string())

    print("\nExtracted by the most attacks:")
    worst = data[data["extracted"]].assign(attacks=data[asked].sum(axis=1).astype(int))
    worst = worst.sort_values(["attacks", "line"], ascending=[False, True])
    print(worst[["sample_id", "line", "attacks"]].head(5).to_string(index=False))


if __name__ == "__main__":
    main()
