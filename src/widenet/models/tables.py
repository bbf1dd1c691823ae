"""The tables that ``widenet models`` prints: exact sizes next to the published ones."""

from typing import Any

from widenet.models.counts import ModelConfig, count
from widenet.models.paper import PAPER_ROWS
from widenet.models.presets import create_config, list_models


def describe_presets() -> list[dict[str, Any]]:
    """Return one row per preset: exact parameters, FLOPs of one image or text, the published size and score."""
    published = {row.preset: row for row in PAPER_ROWS if row.table in ("1", "2")}
    rows = []
    for name in list_models():
        row = published.get(name)
        rows.append(
            {
                "model": name,
                **_sizes(create_config(name)),
                "published": row.published if row else None,
                "ImageNet_top1": row.top1 if row else None,
                "text_average": float(row.scores["average"]) if row and row.scores else None,
            }
        )
    return rows


def describe_paper() -> list[dict[str, Any]]:
    """Return one row per row of the paper's Tables 1 to 5, with the preset and overrides it is."""
    return [
        {
            "table": row.table,
            "row": row.name,
            "model": row.preset,
            "overrides": " ".join(f"{key}={value}".replace(" ", "") for key, value in row.overrides.items()),
            "parameters": count(create_config(row.preset, **row.overrides)).parameters,
            "published": row.published,
            "top1": row.top1,
            "scores": " ".join(f"{task}={score}" for task, score in row.scores.items()),
            "note": row.note,
        }
        for row in PAPER_ROWS
    ]


def _sizes(config: ModelConfig) -> dict[str, Any]:
    counts = count(config)
    return {
        "parameters": counts.parameters,
        "active_parameters": counts.active_parameters,
        "tokens": counts.tokens,
        "GFLOPs": round(counts.flops / 1e9, 3),
        "active_GFLOPs": round(counts.active_flops / 1e9, 3),
    }
