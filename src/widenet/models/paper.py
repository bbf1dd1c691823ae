"""The paper's result tables as data: which preset and which overrides make each row.

Sizes and scores are the paper's (Xue et al., AAAI 2022, arXiv 2107.11817), not ours: Tables 1, 3 and 4
give ImageNet-1K top-1, Table 5 top-1 on CIFAR-10 after fine-tuning, Table 2 scores on four text tasks. A
published size of an image model is an exact count rounded down to a million; of a text model, without the
masked-LM head and within a million (all but BERT's are rounded to the nearest).
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of one table.

    Attributes:
        table: its number in the paper.
        name: the model as the paper calls it; variants follow after a comma.
        preset: one of :func:`widenet.list_models`.
        overrides: config fields that turn the preset into this row.
        published: the printed size, for example "29M"; empty where none is printed.
        top1: the printed accuracy in percent; None where there is none.
        note: what the reader should know about a figure that differs or is missing.
        scores: the printed scores of Table 2 by task: F1/EM for SQuAD, else accuracy, and their average.
    """

    table: str
    name: str
    preset: str
    overrides: dict[str, Any] = field(default_factory=dict)
    published: str = ""
    top1: float | None = None
    note: str = ""
    scores: dict[str, str] = field(default_factory=dict)


_SHARED: dict[str, Any] = {"share_attention": True, "share_ffn": True}
_SHARED_NORM: dict[str, Any] = {"share_norm": True}
_NO_MOE: dict[str, Any] = {"moe_layers": "none"}
# The paper does not say which blocks of a ViT-MoE-H hold a mixture.
_UNSHARED_HUGE: dict[str, Any] = {
    "share_attention": False,
    "share_ffn": False,
    "moe_layers": [28, 29, 30, 31],
}
_CIFAR10: dict[str, Any] = {"num_labels": 10, "use_representation": False}


def _text(name: str, preset: str, published: str, *scores: str) -> Row:
    tasks = ("SQuAD1.1", "SQuAD2.0", "MNLI", "SST-2", "average")
    return Row("2", name, preset, {}, published, scores=dict(zip(tasks, scores, strict=True)))


PAPER_ROWS: tuple[Row, ...] = (
    Row("1", "ViT-B", "vit-b16", {}, "87M", 78.6),
    Row("1", "ViT-L", "vit-l16", {}, "305M", 77.5),
    Row("1", "ViT-MoE-B", "vit-moe-b16", {}, "128M", 77.9),
    Row("1", "ViT-MoE-L", "vit-moe-l16", {}, "406M", 77.4),
    Row("1", "WideNet-B", "widenet-b16", {}, "29M", 77.5),
    Row("1", "WideNet-L", "widenet-l16", {}, "40M", 79.5),
    Row("1", "WideNet-H", "widenet-h16", {}, "63M", 80.1),
    _text("ALBERT", "albert-base", "12M", "89.3/82.3", "80.0/77.1", "81.5", "90.3", "84.0"),
    _text("BERT", "bert-base-factorized", "89M", "89.9/82.8", "80.3/77.3", "83.2", "91.5", "85.0"),
    _text("WideNet, 4 experts", "widenet-text-e4", "26M", "89.6/82.7", "80.6/77.4", "82.6", "91.1", "84.7"),
    _text("WideNet, 8 experts", "widenet-text-e8", "45M", "90.0/82.7", "80.6/77.7", "83.3", "91.9", "85.2"),
    _text("WideNet, 16 experts", "widenet-text-e16", "83M", "90.9/83.8", "81.0/77.9", "84.1", "92.2", "85.8"),
    Row("3", "WideNet-B", "widenet-b16", {}, "29M", 77.5),
    Row("3", "WideNet-B, shared LayerNorm", "widenet-b16", _SHARED_NORM, "29M", 76.3),
    Row("3", "WideNet-B, no MoE", "widenet-b16", _NO_MOE, "9M", None, "NaN in the paper: diverged"),
    Row("3", "WideNet-B, no parameter sharing", "vit-moe-b16", {}, "128M", 77.9),
    Row("3", "WideNet-L", "widenet-l16", {}, "40M", 79.5),
    Row("3", "WideNet-L, shared LayerNorm", "widenet-l16", _SHARED_NORM, "40M", 78.3),
    Row("3", "WideNet-L, no MoE", "widenet-l16", _NO_MOE, "15M", 76.9),
    Row("3", "WideNet-L, no parameter sharing", "vit-moe-l16", {}, "406M", 77.4),
    Row("3", "WideNet-H", "widenet-h16", {}, "63M", 80.1),
    Row("3", "WideNet-H, shared LayerNorm", "widenet-h16", _SHARED_NORM, "63M", 76.6),
    Row("3", "WideNet-H, no MoE", "widenet-h16", _NO_MOE, "23M", 79.0),
    Row(
        "3",
        "WideNet-H, no parameter sharing",
        "widenet-h16",
        _UNSHARED_HUGE,
        note="out of memory in the paper, no size printed; mixtures in the last 4 blocks is our guess",
    ),
    Row("4", "ViT-L", "vit-l16", {}, "305M", 77.5),
    Row("4", "ViT-L, shared", "vit-l16", _SHARED, "15M", 76.9),
    Row("4", "WideNet-L, 12 blocks", "widenet-l16", {"num_hidden_layers": 12}, "40M", 78.2),
    Row("4", "ViT-L, shared, FFN 8192", "vit-l16", {**_SHARED, "intermediate_size": 8192}, "24M", 75.8),
    Row("4", "WideNet-L", "widenet-l16", {}, "40M", 79.5),
    Row("5", "ViT-B", "vit-b16", _CIFAR10, "85M", 98.3),
    Row(
        "5",
        "ViT-L",
        "vit-l16",
        _CIFAR10,
        "305M",
        98.2,
        "cannot be reproduced: 303.3M exact; 305M is the size with the ImageNet-1K head",
    ),
    Row("5", "ViT-MoE-B", "vit-moe-b16", _CIFAR10, "126M", 98.5),
    Row("5", "ViT-MoE-L", "vit-moe-l16", _CIFAR10, "404M", 98.5),
    Row("5", "WideNet-B", "widenet-b16", _CIFAR10, "27M", 98.4, "cannot be reproduced: 28.3M exact"),
    Row("5", "WideNet-L", "widenet-l16", _CIFAR10, "38M", 98.8),
)
"""Every row of Tables 1 to 5, in the paper's order."""
