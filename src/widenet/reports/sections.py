"""The sections of the page, each from what the run recorded."""

import re
from html import escape
from typing import Any

from widenet.config import WideNetConfig
from widenet.models.card import describe
from widenet.recipes import parse_yaml
from widenet.reports.figures import MOST_NUMBERED_EXPERTS, heatmap, svg_figure
from widenet.reports.markup import duration, fill, grid, short, table
from widenet.reports.words import IMAGES, METRICS, headline_of, metric, words_of

MANY_CLASSES = 100  # beyond, only the worst are listed
WORST_CLASSES = 20
CHOSEN_BY = ("accuracy", "f1")  # metrics by which the weights that are kept are chosen; the others go by a loss
# title: what stands before the names of the metrics of a part of the test
TEST_PARTS = {
    "test": "",
    "matched": "matched_",
    "mismatched": "mismatched_",
    "answerable": "HasAns_",
    "unanswerable": "NoAns_",
}


def header(name: str, model: str, recipe: str | None, config: WideNetConfig | None) -> str:
    description = parse_yaml(recipe, "recipe.yaml").get("description") if recipe else None
    lines = [f"<h1>{escape(name)} <span>{escape(model)}</span></h1>"]
    if description:
        lines.append(f"<p>{escape(str(description))}</p>")
    if config is not None:
        lines.append(f"<p>{describe(config)}</p>")
    return "<header>" + "".join(lines) + "</header>"


def facts(metrics: dict[str, Any], recipe: str | None = None) -> str:
    """Return the cards: how good, how large, how dear."""
    get, words, headline = metrics.get, words_of(metrics), headline_of(metrics)
    parameters, active = get("parameters"), get("active_parameters")
    flops, active_flops, seconds = get("flops"), get("active_flops"), get("seconds")
    cost = fill("{:,}", active_flops)
    if cost and words is not IMAGES and (tokens := _max_length(recipe)):
        cost += f" for {tokens:,} tokens"
    if flops != active_flops and cost and flops:
        cost += f"; {short(flops)} if every expert ran"
    share = f"{active / parameters:.0%} of all: what one token uses" if active and parameters else None
    # label, value, note; a card without value is left out
    cards = [(f"Test {metric(name).label}", text_of(metrics, name), _test_note(metrics, name)) for name in headline]
    kept = "best, after epoch {:.6g}" if headline[0] in CHOSEN_BY else "of the weights kept, after epoch {:.3g}"
    cards += [
        (
            f"Validation {metric(headline[0]).label}",
            text_of(metrics, headline[0], "validation_"),
            fill(kept, get("best_epoch")),
        ),
        ("Parameters", fill("{:,}", parameters), None),
        ("Active parameters", fill("{:,}", active), share),
        (f"FLOPs per {words.one}, active", active_flops and short(active_flops), cost),
        ("Training time", seconds and duration(seconds), fill("{:g} epochs", get("epochs"))),
        ("Training speed", fill("{:,} tokens/s", get("tokens_per_second")), None),
        ("Seed", fill("{}", get("seed")), None),
    ]
    shown = [
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd>"
        f"{f'<dd class=note>{escape(note)}</dd>' if note else ''}</div>"
        for label, value, note in cards
        if value
    ]
    return f"<dl class=facts>{''.join(shown)}</dl>"


def text_of(metrics: dict[str, Any], name: str, prefix: str = "") -> str | None:
    """Return a metric as a person reads it; None where it was not recorded."""
    value = metrics.get(f"{prefix}{name}")
    return None if value is None else metric(name).text(value)


def _test_note(metrics: dict[str, Any], name: str) -> str | None:
    """Return what stands under a test metric: on how much, and what it is to be compared with."""
    notes = []
    if name == headline_of(metrics)[0]:
        examples = words_of(metrics).examples
        notes.append(fill(f"on {{:,}} {examples}", metrics.get(f"test_{examples}")))
    if f"mismatched_{name}" in metrics:
        notes.append(f"matched; mismatched {text_of(metrics, name, 'mismatched_')}")
    if name == "mlm_loss":
        notes.append(fill("unigram loss {:.3f}", metrics.get("unigram_loss")))
    return "; ".join(note for note in notes if note) or None


def _max_length(recipe: str | None) -> int | None:
    section = parse_yaml(recipe, "recipe.yaml").get("data") if recipe else None
    length = section.get("max_length") if isinstance(section, dict) else None
    return length if isinstance(length, int) else None


def scores(metrics: dict[str, Any]) -> str | None:
    """Return every metric of the test beside that of the validation; None where the cards say it all."""
    if words_of(metrics) is IMAGES:
        return None
    columns, names = measured(metrics)
    if not names:
        return "<p>Left out: metrics.json records none.</p>"
    rows = {metric(name).title: [text_of(metrics, name, prefix) for prefix in columns.values()] for name in names}
    notes = []
    if "mlm_loss" in names:
        notes.append("Losses of words are in nats a masked word.")
    if "unigram_loss" in names:
        notes.append("The unigram loss is that of guessing the same words by their frequency in the training part.")
    if "pearson" in names:
        notes.append("The loss is the mean squared error.")
    if "exact" in names:
        notes.append(
            "As SQuAD 2.0's script scores them. A question counts as having no answer if the score of none exceeds "
            "that of the best answer."
        )
        notes += [
            f"With {metrics[f'best_{name}_thresh']:.3f} instead of 0 as the threshold of that excess, the best "
            f"on these test questions, {metric(name).label} is {metric(name).text(metrics[f'best_{name}'])}."
            for name in ("exact", "f1")
            if f"best_{name}" in metrics
        ]
    return grid(list(columns), rows) + (f"<p class=note>{' '.join(notes)}</p>" if notes else "")


def measured(metrics: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the parts of the data, each with what stands before the names of its metrics, and all metrics' names."""
    known = dict.fromkeys([*METRICS, *headline_of(metrics)])
    parts = TEST_PARTS | {"validation": "validation_"}
    columns = {part: prefix for part, prefix in parts.items() if any(f"{prefix}{name}" in metrics for name in known)}
    if any(prefix.endswith("matched_") for prefix in columns.values()):
        del columns["test"]  # the first of the two parts again
    return columns, [name for name in known if any(f"{prefix}{name}" in metrics for prefix in columns.values())]


def seed_table(metrics: dict[str, Any]) -> str | None:
    """Return each seed's headline metrics; None for a single run."""
    seeds, headline = metrics.get("seeds"), headline_of(metrics)
    if not seeds:
        return None
    rows = {str(seed): [text_of(found, name) for name in headline] for seed, found in seeds.items()}
    note = f"Every number above is the median of {len(rows)} seeds; each has a run and a page of its own."
    return grid([metric(name).title for name in headline], rows) + f"<p class=note>{note}</p>"


def expert_load(metrics: dict[str, Any]) -> str:
    load = {block: shares for block, shares in enumerate(metrics.get("expert_load") or []) if shares}
    if not load:
        why = "the model is dense" if metrics.get("expert_load") else "metrics.json records none"
        return f"<p>Left out: {why}.</p>"
    E, routed = len(next(iter(load.values()))), words_of(metrics).routed
    most, least = (
        choose((share, block, expert) for block, shares in load.items() for expert, share in enumerate(shares))
        for choose in (max, min)
    )
    text = (
        f"The share of assignments each expert got on the test {routed}; a perfectly balanced router gives each "
        f"1/{E} = {100 / E:.3g}%. "
        f"Most: expert {most[2]} in block {most[1]} with {most[0]:.1%}. "
        f"Least: expert {least[2]} in block {least[1]} with {least[0]:.1%}."
    )
    balance = metrics.get("balance_loss")
    if balance is not None:
        text += f" Balance loss on the test {routed}: {balance:.4f}, where 1 is perfectly balanced."
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


def split_table(metrics: dict[str, Any]) -> str:
    """Return where the data are from, and how they were split."""
    split, examples = metrics.get("split"), words_of(metrics).examples
    if not split:
        return "<p>Left out: metrics.json records no split.</p>"
    origin, tokens, own = split.get("origin", {}), split.get("tokens", {}), "the source's own"
    rows = {"source": split.get("source")}
    for part, size in split.get("sizes", {}).items():
        rows[part] = f"{size:,} {examples}" + (f", {tokens[part]:,} tokens" if part in tokens else "")
        rows[part] += f" ({re.sub('^own', own, origin[part])})" if part in origin else ""
    rows |= {"split seed": split.get("seed"), "documents": fill("{:,}", split.get("documents"))}
    rows |= {
        f"{key.split('_')[0]} {key.split('_')[1]}": split.get(key)
        for key in ("dropped_tokens", "skipped_files", "skipped_rows", "skipped_answers")
    }
    rows["digest"] = split.get("digest")
    return table(rows) + f"<p class=note>Two runs with the same digest have the same {examples} in every part.</p>"


def recipe_text(recipe: str | None) -> str:
    if recipe is None:
        return "<p>Left out: the run folder holds no recipe.yaml.</p>"
    return (
        f"<details><summary>recipe.yaml, every value that was in force</summary><pre>{escape(recipe)}</pre></details>"
    )


def origin_table(metrics: dict[str, Any]) -> str:
    rows = {"commit": metrics.get("commit") or "not recorded", **(metrics.get("versions") or {})}
    return table(rows)
