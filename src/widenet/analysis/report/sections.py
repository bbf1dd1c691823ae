"""The sections of the page, each from what the run recorded."""

import re
from html import escape
from typing import Any

from widenet.analysis.report.figures import MOST_NUMBERED_EXPERTS, heatmap, svg_figure
from widenet.analysis.report.markup import duration, fill, short, table
from widenet.config import WideNetVisionConfig
from widenet.recipes import parse_yaml

MANY_CLASSES = 100  # beyond, only the worst are listed
WORST_CLASSES = 20


def header(name: str, model: str, recipe: str | None, config: WideNetVisionConfig | None) -> str:
    description = parse_yaml(recipe, "recipe.yaml").get("description") if recipe else None
    lines = [f"<h1>{escape(name)} <span>{escape(model)}</span></h1>"]
    if description:
        lines.append(f"<p>{escape(str(description))}</p>")
    if config is not None:
        lines.append(f"<p>{_shape(config)}</p>")
    return "<header>" + "".join(lines) + "</header>"


def _shape(config: WideNetVisionConfig) -> str:
    """The model in a sentence."""
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
    parts.append("shared by all blocks: " + (", ".join(names[name] for name in shared) or "nothing"))
    return "; ".join(parts).capitalize() + "."


def facts(metrics: dict[str, Any]) -> str:
    get = metrics.get
    parameters, active = get("parameters"), get("active_parameters")
    flops, active_flops, seconds = get("flops"), get("active_flops"), get("seconds")
    cost = fill("{:,}", active_flops)
    if flops != active_flops and cost and flops:
        cost += f"; {short(flops)} if every expert ran"
    share = f"{active / parameters:.0%} of all: what one token uses" if active and parameters else None
    # label, value, note; a card without value is left out
    facts = [
        ("Test accuracy", fill("{:.2%}", get("accuracy")), fill("on {:,} images", get("test_images"))),
        (
            "Validation accuracy",
            fill("{:.2%}", get("validation_accuracy")),
            fill("best, after epoch {:g}", get("best_epoch")),
        ),
        ("Parameters", fill("{:,}", parameters), None),
        ("Active parameters", fill("{:,}", active), share),
        ("FLOPs per image, active", active_flops and short(active_flops), cost),
        ("Training time", seconds and duration(seconds), fill("{:g} epochs", get("epochs"))),
        ("Seed", fill("{}", get("seed")), None),
    ]
    cards = [
        f"<div><dt>{label}</dt><dd>{escape(value)}</dd>{f'<dd class=note>{escape(note)}</dd>' if note else ''}</div>"
        for label, value, note in facts
        if value
    ]
    return f"<dl class=facts>{''.join(cards)}</dl>"


def expert_load(metrics: dict[str, Any]) -> str:
    load = {block: shares for block, shares in enumerate(metrics.get("expert_load") or []) if shares}
    if not load:
        why = "the model is dense" if metrics.get("expert_load") else "metrics.json records none"
        return f"<p>Left out: {why}.</p>"
    E = len(next(iter(load.values())))
    most, least = (
        choose((share, block, expert) for block, shares in load.items() for expert, share in enumerate(shares))
        for choose in (max, min)
    )
    text = (
        f"The share of assignments each expert got on the test images; a perfectly balanced router gives each "
        f"1/{E} = {100 / E:.3g}%. "
        f"Most: expert {most[2]} in block {most[1]} with {most[0]:.1%}. "
        f"Least: expert {least[2]} in block {least[1]} with {least[0]:.1%}."
    )
    balance = metrics.get("balance_loss")
    if balance is not None:
        text += f" Balance loss on the test images: {balance:.4f}, where 1 is perfectly balanced."
    if len(load) < len(metrics["expert_load"]):
        text += " Blocks that are not shown are dense."
    numbers = "Each cell in percent. " if E <= MOST_NUMBERED_EXPERTS else ""
    caption = f"{numbers}Blocks and experts are numbered from 0. White is balanced, red is more, blue is less."
    height = 1.0 + 0.28 * len(load)
    return f"<p>{text}</p>" + svg_figure("load", "Expert load per block", caption, heatmap(load), height)


def class_table(metrics: dict[str, Any]) -> str:
    found = sorted((metrics.get("class_accuracy") or {}).items(), key=lambda item: (item[1], item[0]))
    if not found:
        return "<p>Left out: metrics.json records none.</p>"
    text = f"On the test images, worst first; the mean over {len(found)} classes is "
    text += f"{sum(value for _, value in found) / len(found):.2%}."
    if len(found) > MANY_CLASSES:
        text += f" Of more than {MANY_CLASSES} classes only the {WORST_CLASSES} worst are listed."
        found = found[:WORST_CLASSES]
    rows = [
        f"<tr><th scope=row>{escape(name)}</th><td class=number>{value:.1%}</td>"
        f'<td class=bar><div style="width:{value:.1%}"></div></td></tr>'
        for name, value in found
    ]
    return f"<p>{text}</p><table class=classes>{''.join(rows)}</table>"


def split_table(split: dict[str, Any] | None) -> str:
    if not split:
        return "<p>Left out: metrics.json records no split.</p>"
    origin, own = split.get("origin", {}), "the source's own"
    rows = {"source": split.get("source")}
    for part, size in split.get("sizes", {}).items():
        rows[part] = f"{size:,} images" + (f" ({re.sub('^own', own, origin[part])})" if part in origin else "")
    rows |= {"split seed": split.get("seed"), "skipped files": split.get("skipped_files")}
    rows["digest"] = split.get("digest")
    return table(rows) + "<p class=note>Two runs with the same digest have the same images in every part.</p>"


def recipe_text(recipe: str | None) -> str:
    if recipe is None:
        return "<p>Left out: the run folder holds no recipe.yaml.</p>"
    return (
        f"<details><summary>recipe.yaml, every value that was in force</summary><pre>{escape(recipe)}</pre></details>"
    )


def origin_table(metrics: dict[str, Any]) -> str:
    rows = {"commit": metrics.get("commit") or "not recorded", **(metrics.get("versions") or {})}
    return table(rows)
