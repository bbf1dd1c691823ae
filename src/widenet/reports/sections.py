"""The sections of the page, each from what the run recorded."""

import re
from html import escape
from typing import Any

from widenet.config import WideNetConfig
from widenet.models.card import describe
from widenet.reports.figures import MOST_NUMBERED_EXPERTS, heatmap, svg_figure
from widenet.reports.markup import duration, fill, grid, short, table
from widenet.runs.run import Run
from widenet.tasks import Metric, Task, metric_of

MANY_CLASSES = 100  # beyond, only the worst are listed
WORST_CLASSES = 20


def header(run: Run, metrics: dict[str, Any], config: WideNetConfig | None) -> str:
    """Return the title and what this run, not its recipe, is."""
    training, source = metrics.get("training", {}), (metrics.get("split") or {}).get("source")
    lines = [f"<h1>{escape(metrics['recipe'])} <span>{escape(str(metrics['model']['name']))}</span></h1>"]
    if metrics.get("interrupted"):
        lines.append(
            "<p>Training was interrupted, so nothing was tested yet. "
            f"<code>widenet train --resume {escape(str(run.path))}</code> goes on with it; "
            f"<code>widenet evaluate {escape(str(run.path))}</code> tests the best checkpoint.</p>"
        )
    elif source:
        length = f" for {training['epochs']:g} epochs" if "epochs" in training else ""
        lines.append(f"<p>Trained on {escape(str(source))}{length}.</p>")
    if config is not None:
        lines.append(f"<p>{describe(config)}</p>")
    return "<header>" + "".join(lines) + "</header>"


def facts(run: Run, metrics: dict[str, Any], task: type[Task]) -> str:
    """Return the cards: how good, how large, how dear."""
    model, training, headline = metrics["model"], metrics.get("training", {}), metrics["headline"]
    parameters, active = model.get("parameters"), model.get("active_parameters")
    flops, active_flops, seconds = model.get("flops"), model.get("active_flops"), training.get("seconds")
    cost = fill("{:,}", active_flops)
    if cost and (tokens := max_length(run)):
        cost += f" for {tokens:,} tokens"
    if flops != active_flops and cost and flops:
        cost += f"; {short(flops)} if every expert ran"
    share = f"{active / parameters:.0%} of all: what one token uses" if active and parameters else None
    first: dict[str, Any] = next(iter(metrics["test"].values()), {})
    # label, value, note; a card without value is left out
    cards: list[tuple[str, str | None, str | None]] = []
    for name in headline:
        metric = metric_of(task, name)
        cards.append((f"Test {metric.label}", _text(metric, first), _test_note(metric, metrics, task)))
    if headline:
        metric = metric_of(task, headline[0])
        kept = "of the weights kept, after epoch {:.6g}"
        cards.append(
            (
                f"Validation {metric.label}",
                _text(metric, metrics.get("validation", {})),
                fill(kept, training.get("best_epoch")),
            )
        )
    cards += [
        ("Parameters", fill("{:,}", parameters), None),
        ("Active parameters", fill("{:,}", active), share),
        (f"FLOPs per {task.words.one}, active", active_flops and short(active_flops), cost),
        ("Training time", seconds and duration(seconds), fill("{:g} epochs", training.get("epochs"))),
        ("Training speed", fill("{:,} tokens/s", training.get("tokens_per_second")), None),
        ("Seed", fill("{}", training.get("seed")), None),
    ]
    shown = [
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd>"
        f"{f'<dd class=note>{escape(note)}</dd>' if note else ''}</div>"
        for label, value, note in cards
        if value
    ]
    return f"<dl class=facts>{''.join(shown)}</dl>"


def _text(metric: Metric, scores: dict[str, Any]) -> str | None:
    """Return a metric as a person reads it; None where it was not recorded."""
    value = scores.get(metric.name)
    return None if value is None else metric.text(value)


def _test_note(metric: Metric, metrics: dict[str, Any], task: type[Task]) -> str | None:
    """Return what stands under a test metric: on how much, and what it is to be compared with."""
    if not metrics["test"]:
        return None
    (part, first), *others = metrics["test"].items()
    notes = []
    if metric.name == metrics["headline"][0]:
        notes.append(fill(f"on {{:,}} {task.words.examples}", first.get("examples")))
    notes.append(part)
    notes += [f"{name} {text}" for name, scores in others if (text := _text(metric, scores))]
    if metric.level and isinstance(metric.level[0], str):
        level = metric_of(task, metric.level[0])
        notes.append(fill(f"{level.label} {{}}", _text(level, first)))
    return "; ".join(note for note in notes if note) or None


def max_length(run: Run) -> int | None:
    """Return the tokens of an input, where the recipe has a word for it."""
    if run.recipe_text is None:
        return None
    length = getattr(run.recipe.data, "max_length", None)
    return length if isinstance(length, int) else None


def scores(metrics: dict[str, Any], task: type[Task]) -> str:
    """Return every metric of the test beside that of the validation."""
    columns, found = measured(metrics, task)
    if not found:
        return "<p>Left out: metrics.json records none.</p>"
    rows = {metric.title: [_text(metric, values) for values in columns.values()] for metric in found}
    notes = " ".join(dict.fromkeys(metric.note for metric in found if metric.note))
    return grid(list(columns), rows) + (f"<p class=note>{escape(notes)}</p>" if notes else "")


def measured(metrics: dict[str, Any], task: type[Task]) -> tuple[dict[str, dict[str, Any]], list[Metric]]:
    """Return the scores by the name of their part, test first, and the metrics that they hold, in the task's order."""
    columns = {part or "test": values for part, values in metrics["test"].items()}
    if metrics.get("validation"):
        columns["validation"] = metrics["validation"]
    known = dict.fromkeys([*(metric.name for metric in task.metrics), *metrics["headline"]])
    names = [name for name in known if any(values.get(name) is not None for values in columns.values())]
    return columns, [metric_of(task, name) for name in names]


def seed_table(metrics: dict[str, Any], task: type[Task]) -> str | None:
    """Return each seed's headline metrics; None for a single run."""
    seeds = metrics.get("seeds")
    if not seeds:
        return None
    names = list(next(iter(seeds.values())))
    shown = {name: metric_of(task, name.rpartition(" ")[2]) for name in names}
    rows: dict[str, list[str | None]] = {
        str(seed): [shown[name].text(found[name]) for name in names] for seed, found in seeds.items()
    }
    titles = [f"{name.rpartition(' ')[0]} {shown[name].label}".strip() for name in names]
    note = f"Every number above is the median of {len(rows)} seeds; each has a run and a page of its own."
    return grid([title[0].upper() + title[1:] for title in titles], rows) + f"<p class=note>{note}</p>"


def expert_load(metrics: dict[str, Any], task: type[Task]) -> str:
    """Return the map of who got how much, on the first part of the test."""
    first: dict[str, Any] = next(iter(metrics["test"].values()), {})
    load = {block: shares for block, shares in enumerate(first.get("expert_load") or []) if shares}
    if not load:
        why = "the model has no experts" if first.get("expert_load") else "metrics.json records none"
        return f"<p>Left out: {why}.</p>"
    E, routed = len(next(iter(load.values()))), task.words.unit
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
    balance = first.get("balance_loss")
    if balance is not None:
        text += f" Balance loss on the test {routed}: {balance:.3f}, where 1 is perfectly balanced."
    if len(load) < len(first["expert_load"]):
        text += " Blocks that are not shown have no experts."
    numbers = "Each cell in percent. " if E <= MOST_NUMBERED_EXPERTS else ""
    caption = f"{numbers}Blocks and experts are numbered from 0. White is balanced, red is more, blue is less."
    height = 1.0 + 0.28 * len(load)
    return f"<p>{text}</p>" + svg_figure("load", "Expert load per block", caption, heatmap(load), height)


def class_table(metrics: dict[str, Any]) -> str | None:
    """Return each class's share of right answers, worst first; None where a task has no classes."""
    first: dict[str, Any] = next(iter(metrics["test"].values()), {})
    if "class_accuracy" not in first:
        return None
    found = sorted(first["class_accuracy"].items(), key=lambda item: (item[1], item[0]))
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


def split_table(metrics: dict[str, Any], task: type[Task]) -> str:
    """Return where the data are from, and how they were split."""
    split, examples = metrics.get("split"), task.words.examples
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
