"""From a finished run to its model card (README.md): every number is one of ``metrics.json``."""

import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from widenet.config import WideNetConfig, WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.models.card import (
    NEEDED,
    PAPER,
    PLACE,
    base_model_of,
    describe,
    is_public,
    license_of,
    loading,
    make_card,
    pipeline_of,
    save_card,
    table,
)
from widenet.models.presets import list_models
from widenet.recipes import parse_yaml
from widenet.reports.markup import duration
from widenet.reports.page import read_config, read_recipe_text
from widenet.reports.sections import CHOSEN_BY, measured, text_of
from widenet.reports.words import headline_of, metric, words_of
from widenet.runs.compare import read_metrics

# class: the lines that use a model of it, and what stands behind `widenet predict .`
USES = {
    "WideNetForImageClassification": (
        "from PIL import Image\nfrom transformers import pipeline\n\n"
        'classify = pipeline("image-classification", model=".")\nprint(classify(Image.open("photo.png"), top_k=3))',
        "photo.png",
    ),
    "WideNetForPreTraining": (
        "from transformers import pipeline\n\n"
        'fill = pipeline("fill-mask", model=".")\nprint(fill(f"a cup of {fill.tokenizer.mask_token}"))',
        '"a cup of [MASK]"',
    ),
    "WideNetForSequenceClassification": (
        "from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model=".", truncation=True)\nprint(classify("a charming film"))',
        '"a charming film"',
    ),
    "WideNetForQuestionAnswering": (
        "from widenet.runs.predict import predict_answers\n\n"
        'print(predict_answers(".", ["Who wrote it?"], context="It was written by Jane Austen."))',
        '"Who wrote it?" --context "It was written by Jane Austen."',
    ),
}
# Our names of metrics that the hub knows by another one.
HUB_METRICS = {"macro_f1": "f1", "exact": "exact_match", "pearson": "pearsonr", "spearman": "spearmanr"}


def write_card(run: Path) -> Path:
    """Write a run's model card, ``README.md`` in its folder, in place of one that is there; return its path.

    Args:
        run: a run folder with ``config.json`` and ``metrics.json``.

    Raises:
        WideNetError: the run is missing or damaged.
        OSError: the card cannot be written.
    """
    metrics, config = read_metrics(run), read_config(run)
    if config is None:
        raise WideNetError(f"{run} has no config.json; a model card is of a model")
    text = read_recipe_text(run)
    recipe = parse_yaml(text, "recipe.yaml") if text else {}
    kind = (config.architectures or [""])[0]
    name, model = str(metrics.get("recipe") or run.resolve().name), str(metrics.get("model"))
    title = f"{name} · {Path(model).name}"
    hub, results = _results(metrics, pipeline_of(kind) or "")
    sections = {
        "": f"{describe(config)}\n\n{PAPER}",
        "Results": _scores(metrics),
        "Sizes": _sizes(metrics, recipe),
        "Use": _use(kind),
        "Data": _data(metrics),
        "Training": _training(metrics, text),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(metrics, recipe, config, kind)),
    }
    card = make_card(
        title,
        config,
        pipeline_of(kind),
        sections,
        datasets=[hub] if hub else None,
        metrics=list(dict.fromkeys(HUB_METRICS.get(key, key) for key in headline_of(metrics))),
        model_name=title,
        eval_results=results or None,
        **({} if model in list_models() else license_of(model) | base_model_of(model)),
    )
    return save_card(card, run)


def _results(metrics: dict[str, Any], pipeline: str) -> tuple[str | None, list[EvalResult]]:
    """Return the data set's name on the hub, where it has one, and every result as it was recorded."""
    split = metrics.get("split") or {}
    source = str(split.get("source"))
    name, _, config = source.removeprefix("hf:").partition(":")
    hub = name if source.startswith("hf:") or is_public(name) else None
    name = hub or Path(source).name
    parts, names = measured(metrics)
    return hub, [
        EvalResult(
            task_type=pipeline,
            dataset_type=name,
            dataset_name=name,
            dataset_config=(config or None) if hub else None,
            dataset_split=part,
            metric_type=HUB_METRICS.get(key, key),
            metric_name=metric(key).title,
            metric_value=value,
        )
        for part, prefix in parts.items()
        for key in names
        if isinstance(value := metrics.get(f"{prefix}{key}"), int | float) and math.isfinite(value)
    ]


def _use(kind: str) -> str:
    if kind not in USES:
        return f"{NEEDED}\n\n{loading(kind)}\n\n{PLACE}"
    lines, example = USES[kind]
    code = f"```python\nimport widenet  # registers the model\n{lines}\n```"
    command = f"`widenet.runs.predict` reads folders alone. On the command line: `widenet predict . {example}`."
    return f"{NEEDED}\n\n{code}\n\n{PLACE} {command}"


def _scores(metrics: dict[str, Any]) -> str:
    parts, names = measured(metrics)
    rows = [[metric(key).title, *(text_of(metrics, key, prefix) or "–" for prefix in parts.values())] for key in names]
    examples = words_of(metrics).examples
    tested = metrics.get(f"test_{examples}")
    on = f"Tested on {tested:,} {examples}.\n\n" if tested else ""
    return on + table([["", *parts], *rows])


def _sizes(metrics: dict[str, Any], recipe: dict[str, Any]) -> str:
    one, length = words_of(metrics).one, (recipe.get("data") or {}).get("max_length")
    of = f" of {length:,} tokens" if isinstance(length, int) else ""
    labels = {"parameters": "parameters", "flops": f"FLOPs of one {one}{of}"}
    rows = [
        [label, f"{metrics[key]:,}", f"{metrics[f'active_{key}']:,}"]
        for key, label in labels.items()
        if key in metrics and f"active_{key}" in metrics
    ]
    note = "Active is what one token uses: of a mixture, K of the E experts. A multiply-add counts as two FLOPs."
    return f"{table([['', 'all', 'active'], *rows])}\n\n{note}"


def _data(metrics: dict[str, Any]) -> str:
    split, examples = metrics.get("split") or {}, words_of(metrics).examples
    origin = split.get("origin", {})
    rows = [
        [part, f"{size:,}", re.sub("^own", "the source's own", origin.get(part, "–"))]
        for part, size in split.get("sizes", {}).items()
    ]
    digest = f"Digest `{split.get('digest')}`: runs with the same one have the same {examples} in every part."
    return f"Source: `{split.get('source')}`.\n\n{table([['part', examples, 'from'], *rows])}\n\n{digest}"


def _training(metrics: dict[str, Any], recipe: str | None) -> str:
    took = f"{metrics['steps']:,} steps ({metrics['epochs']:g} epochs) with seed {metrics['seed']} took "
    took += f"{duration(metrics['seconds'])}; the weights are those of epoch {metrics['best_epoch']:.6g}."
    made = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    made += f"; widenet's commit {metrics['commit']}" if metrics.get("commit") else ""
    parts = [took, f"Made with {made}."]
    if recipe is not None:
        parts += [
            "In this folder the following line trains it again. Paths in the recipe count from where it runs.",
            "```bash\nwidenet train recipe.yaml --output again\n```",
            "<details><summary>recipe.yaml, every value that was in force</summary>",
            f"````yaml\n{recipe.rstrip()}\n````",
            "</details>",
        ]
    return "\n\n".join(parts)


def _limits(metrics: dict[str, Any], recipe: dict[str, Any], config: WideNetConfig, kind: str) -> list[str]:
    words, headline, get = words_of(metrics), headline_of(metrics), metrics.get
    chosen_by = metric(headline[0]).label if headline[0] in CHOSEN_BY else "loss"
    limits = [
        f"One run with one seed ({get('seed')}): how far another seed would end from it is not known.",
        f"The {chosen_by} of the validation part chose which weights were kept, and so flatters; the "
        "test part chose nothing.",
    ]
    if (get("split") or {}).get("origin", {}).get("test", "").startswith("held out"):
        limits.append(f"The test {words.examples} are held out of the same source; others may well be harder.")
    if isinstance(config, WideNetVisionConfig):
        limits.append(f"It sees {config.image_size}×{config.image_size} pixels.")
    elif isinstance(length := (recipe.get("data") or {}).get("max_length"), int):
        limits.append(f"It reads {length:,} tokens at once.")
    if kind == "WideNetForImageClassification":
        limits.append(f"It says one of {len(config.id2label or {})} classes of any image, whatever the image shows.")
    if classes := get("class_accuracy"):
        worst = min(classes, key=classes.__getitem__)
        limits.append(f"The class it knows worst is `{worst}`: {classes[worst]:.1%} of its test images.")
    if "mlm_loss" in metrics and "unigram_loss" in metrics:
        limits.append(
            f"Guessing words by their frequency has an MLM loss of {metrics['unigram_loss']:.3f}, this model "
            f"{metrics['mlm_loss']:.3f}."
        )
    shares = [share for block in get("expert_load") or [] for share in block or []]
    if shares:
        limits.append(
            f"On the test {words.routed} the busiest expert of a block got {max(shares):.1%} of the assignments, the "
            f"idlest {min(shares):.1%}."
        )
    return limits
