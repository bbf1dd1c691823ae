"""Model cards: the README.md that tells the Hugging Face hub, and a person, what a model folder holds.

A card says only what its maker knows. Here that is a model alone, or a widening; ``analysis/card.py`` makes the card
of a finished run. No card names a license, except for one that the source of the weights names in its own card.

Axes: E experts, K experts a token.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, metadata_load, try_to_load_from_cache

from widenet.config import WideNetConfig
from widenet.files import write_text
from widenet.models.counts import active_parameters
from widenet.models.heads import head_of

CARD = "README.md"
PAPER = "The architecture is a point of the space that [WideNet](https://arxiv.org/abs/2107.11817) spans."
ACTIVE = "Active is what one token uses: of a mixture, K of the E experts."
NEEDED = "This needs the Python package `widenet`, whose import registers its models with transformers."
PLACE = "`.` is this folder: put its path there, or its name on the hub."


def describe(config: WideNetConfig) -> str:
    """Return a model's architecture in a sentence."""
    shared = [name for name in ("attention", "ffn", "norm") if getattr(config, f"share_{name}")]
    parts = [f"{config.num_hidden_layers} blocks of width {config.hidden_size}"]
    mixtures = len(config.moe_blocks)
    if mixtures:
        where = "every block" if mixtures == config.num_hidden_layers else f"{mixtures} of them"
        experts = f"{config.num_experts} experts, {config.num_experts_per_tok} for each token"
        parts.append(f"a mixture of {experts}, in {where}")
    else:
        parts.append("no mixture of experts")
    names = {"attention": "attention", "ffn": "feed-forward", "norm": "norms"}
    group = config.num_hidden_layers // config.num_sharing_groups
    who = "all blocks" if group == config.num_hidden_layers else f"each {group} blocks"
    parts.append(f"shared by {who}: " + (", ".join(names[name] for name in shared) or "nothing"))
    return "; ".join(parts).capitalize() + "."


def make_card(
    title: str, config: WideNetConfig, pipeline: str | None, sections: dict[str, str], **metadata: Any
) -> ModelCard:
    """Return a card.

    Args:
        title: its first heading.
        config: of the model.
        pipeline: the hub's name of the task.
        sections: Markdown by heading; one without a heading ("") comes first.
        **metadata: other fields of ``ModelCardData``.
    """
    mixture = ["mixture-of-experts"] if config.moe_blocks else []
    data = ModelCardData(
        library_name="transformers", pipeline_tag=pipeline, tags=["widenet", *mixture], **metadata
    ).to_yaml()
    body = "\n\n".join([f"## {heading}\n\n{text}" if heading else text for heading, text in sections.items()])
    return ModelCard(f"---\n{data}\n---\n\n# {title}\n\n{body}\n")


def pipeline_of(kind: str) -> str | None:
    """Return the hub's name of the task of a model class; None where that is not registered."""
    head = head_of(kind)
    return head.pipeline if head else None


def markdown_table(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row is its head, and all columns but the first are numbers."""
    rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def save_card(card: ModelCard, folder: Path) -> Path:
    """Write a folder's card, whole or not at all, and return its path.

    Raises:
        OSError: it cannot be written.
    """
    write_text(folder / CARD, str(card))
    return folder / CARD


def license_of(source: str | Path) -> dict[str, Any]:
    """Return the license that a model's card names, as fields of ``ModelCardData``; none where it names none.

    Args:
        source: a folder, or the public name of a model that was downloaded.
    """
    card: Any = Path(source).expanduser() / CARD
    try:
        if not card.is_file():
            card = try_to_load_from_cache(str(source), CARD)
        found = metadata_load(card) or {} if isinstance(card, str | Path) else {}
    except (OSError, ValueError, yaml.YAMLError):  # a path is no public name, and says so in a ValueError
        return {}
    return {key: found[key] for key in ("license", "license_name", "license_link") if found.get(key)}


def is_public(source: str) -> bool:
    """Whether this is the OWNER/NAME of a model or data set on the hub, rather than a path here."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source)) and not Path(source).expanduser().exists()


def base_model_of(source: str) -> dict[str, Any]:
    """Return what a model was made of as a field of ``ModelCardData``; nothing where that is a folder or a preset."""
    return {"base_model": source} if is_public(source) else {}


# ---- from a model alone ----


def model_card(model: Any, name: str = ".") -> ModelCard:
    """Return what a model alone tells: architecture, sizes, how to load it.

    Args:
        model: one of this package.
        name: the folder or repository that it is loaded from.
    """
    kind = type(model).__name__
    rows = [["", "all", "active"], sizes("parameters", model)]
    sections = {
        "": PAPER,
        "Model": f"{describe(model.config)}\n\n{markdown_table(rows)}\n\n{ACTIVE}",
        "Use": f"{NEEDED}\n\n{loading(kind, name)}",
        "Limits": "This card was made from the model alone. What it was trained on, if at all, and how good it is, "
        "are not recorded here.",
    }
    return make_card(kind, model.config, pipeline_of(kind), sections)


def sizes(label: str, model: Any) -> list[str]:
    """Return a row of a table: label, parameters, active parameters."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return [label, f"{parameters:,}", f"{active_parameters(model):,}"]


def loading(kind: str, name: str = ".") -> str:
    """Return the lines, as Markdown, that load a model of this class from a folder or repository."""
    return f'```python\nimport widenet\n\nmodel = widenet.{kind}.from_pretrained("{name}")\n```'


def widened_card(wide: Any, dense: Any, folder: Path, arguments: dict[str, Any], files: list[str]) -> ModelCard:
    """Return the card of a model that was widened and not trained yet.

    Args:
        wide: the result.
        dense: the source, as a model of ours.
        folder: where the source lies.
        arguments: all of :func:`widenet.widen`.
        files: names of the files of tokenizer or image processor beside it.
    """
    kind, source = type(wide).__name__, str(arguments["model_or_path"])
    unset = {key for key, value in arguments.items() if value is None}
    chosen = {key: value for key, value in arguments.items() if key not in {"model_or_path", "fields", *unset}}
    chosen |= arguments.get("fields", {})
    call = ", ".join([repr(source), *(f"{key}={value!r}" for key, value in chosen.items())])
    rows = [["parameters", "all", "active"], sizes("source", dense), sizes("this model", wide)]
    also = f" Beside it lie {', '.join(f'`{name}`' for name in files)}." if files else ""
    sections = {
        "": f"**Not trained yet:** fine-tune or distil it. Its weights are made of the dense model `{source}`.",
        "Model": f"{describe(wide.config)}\n\n{markdown_table(rows)}\n\n{ACTIVE} {PAPER}",
        "Method": f"```python\nimport widenet\n\nwide = widenet.widen({call})\n```",
        "Use": f"{NEEDED}{also}\n\n{loading(kind)}\n\n{PLACE} To train it: `widenet train RECIPE model=. data=…`.",
        "Limits": "Nothing was measured. Unless the source's blocks shared their weights already, this is another "
        "function than the source's.",
    }
    metadata = license_of(folder) | base_model_of(source)
    return make_card(f"{Path(source).name}, widened", wide.config, pipeline_of(kind), sections, **metadata)
