"""What each attack brings back of a memory that later training hid from the plain prefix.

    python examples/hidden-memory/recovered.py BEFORE LATER

BEFORE and LATER are run folders of scans of the same data: of a model before further training, and
after it. Hidden are the windows that the plain prefix (none) extracts before and not after. Prints
a Markdown table; its intervals are exact (Clopper-Pearson) and take windows as independent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from memaudit.score.stats import clopper_pearson

WINDOW = ["role", "sample_id", "line", "window"]


def scored(run: Path) -> pd.DataFrame:
    """The scored windows of a run, indexed by what names them."""
    rows = pd.read_csv(run / "windows.csv", dtype={"sample_id": str})
    return rows[rows.status == "scored"].set_index(WINDOW)


def table(before: pd.DataFrame, later: pd.DataFrame) -> list[str]:
    """One row for each attack that the later run holds."""
    before = before[before.index.isin(later.index)]  # of the first run controls are not needed
    windows = later[later.index.get_level_values("role") == "data"].index
    if not windows.isin(before.index).all():
        raise SystemExit("the two runs hold different windows; scan the same data with both models")
    if before.exact_none.isna().any() or later.exact_none.isna().any():
        raise SystemExit("both runs need the attack none")
    first = before.exact_none.reindex(later.index) == 1
    plain = later.exact_none == 1
    data = later.index.get_level_values("role") == "data"
    hidden, kept = data & first & ~plain, data & plain
    if not hidden.any():
        raise SystemExit("nothing is hidden: all that came out before still does")
    lines = [
        f"| attack | exact, of {data.sum():,} | brought back, of {hidden.sum():,} hidden "
        f"| 95 % interval | lost, of {kept.sum():,} | controls, of {(~data).sum():,} |",
        "|---|---|---|---|---|---|",
    ]
    for column in later.columns[later.columns.str.startswith("exact_")]:
        if later[column].isna().all():
            continue  # this attack did not run
        hit = later[column] == 1
        back, of = int((hit & hidden).sum()), int(hidden.sum())
        low, high = clopper_pearson(back, of, 0.95)
        name, share = column.removeprefix("exact_"), f"{back} ({back / of:.1%})"
        lines.append(
            f"| `{name}` | {(hit & data).sum()} | {share} "
            f"| {low:.1%} to {high:.1%} | {(kept & ~hit).sum()} | {(hit & ~data).sum()} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("later", type=Path)
    options = parser.parse_args()
    print("\n".join(table(scored(options.before), scored(options.later))))


if __name__ == "__main__":
    main()
