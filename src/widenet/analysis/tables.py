"""The tables that ``widenet models`` prints: exact sizes next to the published ones."""

from typing import Any

from widenet.analysis.counts import count
from widenet.analysis.paper import PAPER_ROWS
from widenet.config import WideNetVisionConfig
from widenet.presets import create_config, list_models


def describe_presets() -> list[dict[str, Any]]:
    """Return one row per preset: exact parameters, the published figure, FLOPs of one image."""
    published = {row.preset: row for row in PAPER_ROWS if row.table == "1" and not row.overrides}
    rows = []
    for name in list_models():
        row = published.get(name)
        rows.append(
            {
                "model": name,
                **_sizes(create_config(name)),
                "published": row.published if row else None,
                "ImageNet_top1": row.top1 if row else None,
            }
        )
    return rows


def describe_paper() -> list[dict[str, Any]]:
    """Return one row per row of the paper's Tables 1, 3, 4 and 5, with the preset and overrides it is."""
    return [
        {
            "table": row.table,
            "row": row.name,
            "model": row.preset,
            "overrides": " ".join(f"{key}={value}".replace(" ", "") for key, value in row.overrides.items()),
            "parameters": count(create_config(row.preset, **row.overrides)).parameters,
            "published": row.published,
            "top1": row.top1,
            "note": row.note,
        }
        for row in PAPER_ROWS
    ]


def _sizes(config: WideNetVisionConfig) -> dict[str, Any]:
    counts = count(config)
    return {
        "parameters": counts.parameters,
        "active_parameters": counts.active_parameters,
        "GFLOPs": round(counts.flops / 1e9, 3),
        "active_GFLOPs": round(counts.active_flops / 1e9, 3),
    }
