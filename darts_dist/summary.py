"""A result in words, for people.

Place: layer 4, for `cli`; the dict that a verb returns in, text out.
"""

import os
from collections.abc import Sequence
from typing import Any


def summary(result: dict[str, Any], workdir: str) -> str:
    """Returns what a person wants to know of a result: cells and scores by seed, and where."""
    lines = _ranking(result["cells"]) if "cells" in result else []
    for seed in result.get("seeds", []):
        lines.append(f"seed {seed['seed']}: {seed['status']}{_scores(seed)}")
        genotype = seed.get("genotype") or {}
        for cell, edges in genotype.items():
            if isinstance(edges, list) and edges and isinstance(edges[0], list | tuple):
                lines.append(
                    f"  {cell}: " + ", ".join(f"{name} {source}" for name, source in edges)
                )
    if result.get("best_seed") is not None:
        lines.append(f"best: seed {result['best_seed']}")
    percent, plain = ("valid_error", "valid_error_top5"), ("valid_perplexity", "test_perplexity")
    for key in (*percent, *plain):
        mean = result.get("metrics", {}).get(f"{key}_mean")
        if mean is not None:
            deviation, unit = result["metrics"][f"{key}_deviation"], " %" if key in percent else ""
            name = key.replace("_", " ")
            lines.append(f"{name}: {mean:.2f}{unit} (deviation {deviation:.2f})")
    if "multiply_adds" in result.get("metrics", {}):
        found = result["metrics"]
        lines.append(
            f"parameters: {found['parameters']:,}; multiply-adds: {found['multiply_adds']:,}"
        )
    lines.append(f"{'file' if os.path.isfile(workdir) else 'run'}: {workdir}")
    return "\n".join(lines)


def _ranking(cells: list[dict[str, Any]]) -> list[str]:
    """Returns the ranking of cells as lines of a table."""
    words = any("valid_perplexity_mean" in cell for cell in cells)
    score, unit = ("perplexity", "") if words else ("error", " %")
    rows = [("cell", score, "deviation", "loss", "parameters", "multiply-adds")]
    for cell in cells:
        if cell["status"] == "completed":
            mean, deviation = (cell[f"valid_{score}_{name}"] for name in ("mean", "deviation"))
            loss = cell["valid_loss_mean"]
            numbers = (
                "not finite" if mean is None else f"{mean:.2f}{unit}",
                f"{deviation:.2f}",
                "not finite" if loss is None else f"{loss:.4f}",
                f"{cell['parameters']:,}",
                f"{cell['multiply_adds']:,}",
            )
            rows.append((cell["cell"], *numbers))
        else:
            rows.append((cell["cell"], cell["status"], "", "", "", ""))
    return aligned(rows)


def _scores(seed: dict[str, Any]) -> str:
    units = {"train_loss": "", "valid_loss": "", "valid_accuracy": " %"}
    units |= {"valid_perplexity": "", "test_perplexity": ""}
    known = [key for key in units if isinstance(seed.get(key), int | float)]
    return "".join(f", {key.replace('_', ' ')} {seed[key]:.4g}{units[key]}" for key in known)


def aligned(rows: Sequence[Sequence[str]], *, left: int = 0) -> list[str]:
    """Returns rows as the lines of a table; left: how many columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if at < left else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
