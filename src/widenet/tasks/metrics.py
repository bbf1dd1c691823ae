"""What a metric is, and how the numbers of a part of the data are added up.

Axes: N examples of a batch, L tokens of each, B blocks, E experts, K experts a token.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from widenet.config import WideNetConfig


@dataclass(frozen=True)
class Metric:
    """A metric, declared by its task; bar, tables, TensorBoard, report and card all show it by this.

    Attributes:
        name: its key in ``metrics.json``.
        label: its name within a sentence.
        kind: "share" of 1 or "percent" of 100, both shown in percent; "number"; "loss".
        higher_is_better: None means that it is, unless it is a loss.
        hub: its name on the hub, where that is another one.
        note: what a person should know of it, one or more sentences for the report.
        level: a value to compare it with: another metric of the same part, or a number; and what that is called.
        like_training: the accuracy in training is the same thing, measured while the weights move.
    """

    name: str
    label: str
    kind: Literal["share", "percent", "number", "loss"] = "number"
    higher_is_better: bool | None = None
    hub: str | None = None
    note: str = ""
    level: tuple[str | float, str] | None = None
    like_training: bool = False

    @property
    def is_better_higher(self) -> bool:
        """Whether a higher value is a better one."""
        return self.kind != "loss" if self.higher_is_better is None else self.higher_is_better

    @property
    def title(self) -> str:
        """The name at the beginning of a line."""
        return self.label[0].upper() + self.label[1:]

    def text(self, value: float | None) -> str:
        """Return a value as a person reads it, the same everywhere."""
        if value is None:
            return "–"
        if self.kind in ("share", "percent"):
            return f"{100 * value if self.kind == 'share' else value:.2f}%"
        return f"{value:.3f}"


LOSS = Metric("loss", "loss", "loss")
BALANCE = Metric("balance_loss", "balance loss", "loss", note="The mean per routing operation; 1 is balanced.")


def format_metrics(metrics: tuple[Metric, ...], values: dict[str, Any]) -> str:
    """Return ``accuracy 91.20%  MLM loss 3.210`` for those metrics that have a value."""
    return "  ".join(
        f"{metric.label} {metric.text(values[metric.name])}"
        for metric in metrics
        if values.get(metric.name) is not None
    )


def routing_operations(config: WideNetConfig) -> int:
    """Return how many routing operations a forward pass makes: what Σ l (Eq 8) is divided by to be shown."""
    return sum(step.router is not None for step in config.depth_plan())


class Tally:
    """What a walk over a part of the data adds up: the one accumulator behind every validation and test.

    ``sums`` are float64 and hold no means, so those of several processes can be added (:meth:`merge`). What no sum
    can express (a correlation, the best span of several windows) keeps its rows instead.

    Attributes:
        sums: by name, scalars or arrays.
        rows: by name, tensors [N, …] in the order of the data.
    """

    def __init__(self, config: WideNetConfig) -> None:
        self.config = config
        self.sums: dict[str, Tensor] = {}
        self.rows: dict[str, list[Tensor]] = {}
        self.started = time.perf_counter()

    def add(self, **values: Tensor | float) -> None:
        """Add to the sums."""
        for name, value in values.items():
            # float64 on the host: sums of float32 over a large test part would lose digits
            number = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
            self.sums[name] = self.sums[name] + number if name in self.sums else number

    def keep(self, **values: Tensor) -> None:
        """Keep the rows of a batch."""
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value.detach().cpu())

    def add_routing(self, output: Any, examples: int, mask: Tensor | None = None) -> None:
        """Add what a model returned with ``output_routing=True`` for a batch; ``mask`` [N, L] is zero for padding."""
        self.add(batched=examples, balance=float(output.balance_loss) * examples)
        B, E = self.config.num_hidden_layers, self.config.num_experts
        sent = torch.zeros(B, E, dtype=torch.float64)
        for block, record in enumerate(output.routing):
            if record is not None:
                chosen = record.experts if mask is None else record.experts[mask.reshape(-1).bool()]
                sent[block] = torch.bincount(chosen.flatten(), minlength=E).cpu()
        self.add(assignments=sent)

    def merge(self, other: "Tally") -> None:
        """Add what another process found on its share of the data."""
        self.add(**other.sums)
        for name, parts in other.rows.items():
            self.rows.setdefault(name, []).extend(parts)

    def total(self, name: str) -> float:
        """Return a sum; 0 where nothing was added."""
        return float(self.sums.get(name, 0.0))

    def mean(self, name: str, over: str = "batched") -> float:
        """Return one sum divided by another, by default by the number of examples in the batches."""
        return self.total(name) / self.total(over)

    def all(self, name: str) -> Tensor:
        """Return all rows of a name as one tensor."""
        return torch.cat(self.rows[name])

    def routing(self) -> dict[str, Any]:
        """Return ``balance_loss`` per routing operation, ``expert_load`` by block (None: no experts), and speed."""
        operations, sent = routing_operations(self.config), self.sums["assignments"]  # [B, E]
        return {
            "balance_loss": self.mean("balance") / operations if operations else None,
            "expert_load": [(row / row.sum()).tolist() if row.sum() else None for row in sent],
            "examples_per_second": round(self.total("batched") / (time.perf_counter() - self.started), 1),
        }
