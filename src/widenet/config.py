"""The space of models: every model, baseline and ablation of the paper is one point of it.

A transformer is a walk through depth. At each step it uses an attention, a feed-forward (dense, or a
mixture of experts behind a router) and two LayerNorms. Sharing only says *which* module a step uses,
so the config says how the modules are shared, and :meth:`WideNetConfig.depth_plan` turns that into
one :class:`Step` per block. Nothing after this file asks which model it is running.
"""

from typing import Any, Literal, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from widenet.errors import WideNetError, unknown


class Step(NamedTuple):
    """What one block uses: indices into the encoder's lists of modules.

    A block has either a dense feed-forward (``dense``) or a mixture (``experts``). ``router`` is None
    where the block reuses the routing of its group's first mixture (Fig 3).
    """

    attention: int
    norms: int
    dense: int | None
    experts: int | None
    router: int | None


@strict
class WideNetConfig(PreTrainedConfig):
    """The encoder's configuration, common to images and text. The defaults are WideNet-B's (Table 1).

    Args:
        hidden_size: D, the width of a token.
        num_hidden_layers: B, the number of blocks.
        num_attention_heads: heads per attention; must divide ``hidden_size``.
        intermediate_size: hidden width of a dense feed-forward.
        hidden_act: activation between the two layers of a feed-forward, by its name in transformers.
        layer_norm_eps: epsilon of every LayerNorm.
        hidden_dropout_prob: dropout on embeddings and on each residual branch.
        attention_probs_dropout_prob: dropout on attention probabilities.
        initializer_range: standard deviation of the initial weights.
        norm_first: True for pre-LN blocks and a final LayerNorm (ViT), False for post-LN (BERT).
        share_attention: one attention for all blocks, or one per block.
        share_ffn: one feed-forward (and one mixture) for all blocks, or one per block.
        share_norm: one pair of LayerNorms for all blocks (ALBERT), or one pair per block (Eq 6).
        share_router: one router for all mixtures, or one per mixture. None follows ``share_ffn``.
        num_sharing_groups: what is shared, is shared by B/num_sharing_groups consecutive blocks: each group has
            a set of shared modules of its own. 1 is the paper's model.
        num_routing_groups: G; routing is computed once per group of B/G consecutive blocks (Fig 3).
            None means one group per block, the standard model.
        moe_layers: which blocks hold a mixture: "all", "none" or a list of block indices.
        num_experts: E.
        num_experts_per_tok: K, at most E.
        expert_intermediate_size: H, hidden width of one expert. None follows ``intermediate_size``.
        capacity_factor: C in training; the experts share ceil(C·K·tokens/E) slots each, assignments
            beyond are dropped. None never drops.
        eval_capacity_factor: the same at evaluation. None (the default) keeps a sample's output
            independent of the rest of its batch.
        router_noise_std: standard deviation of the training noise on router logits. None is 1/E (Eq 2).
        normalize_gates: divide a token's K gates by their sum. The paper does not.
        router_aux_loss_coef: λ of Eq 8.
        problem_type: of a classifier, as in transformers: "single_label_classification" (cross-entropy),
            "multi_label_classification" (a binary cross-entropy per label) or "regression" (mean squared error). None
            means regression where there is one label, else one label of several.

    Raises:
        WideNetError: a value is out of range or two values contradict each other.
    """

    model_type = "widenet"
    # Router records and the balance loss travel with every output but are not predictions.
    keys_to_ignore_at_inference = ["balance_loss", "routing", "hidden_states", "attentions"]  # noqa: RUF012 (transformers' own type)

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    norm_first: bool = True
    share_attention: bool = True
    share_ffn: bool = True
    share_norm: bool = False
    share_router: bool | None = None
    num_sharing_groups: int = 1
    num_routing_groups: int | None = None
    moe_layers: str | list[int] = "all"
    num_experts: int = 4
    num_experts_per_tok: int = 2
    expert_intermediate_size: int | None = None
    capacity_factor: float | int | None = 1.2
    eval_capacity_factor: float | int | None = None
    router_noise_std: float | int | None = None
    normalize_gates: bool = False
    router_aux_loss_coef: float | int = 0.01
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.share_router is None:
            self.share_router = self.share_ffn
        if self.num_routing_groups is None:
            self.num_routing_groups = self.num_hidden_layers
        if self.expert_intermediate_size is None:
            self.expert_intermediate_size = self.intermediate_size
        if self.router_noise_std is None:
            self.router_noise_std = 1 / max(1, self.num_experts)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise :class:`WideNetError` for the first value that cannot be built."""
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            _require(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _require(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        _require(self, "layer_norm_eps", 0 < self.layer_norm_eps < float("inf"), "must be above 0")
        _require(self, "initializer_range", 0 <= self.initializer_range < float("inf"), "must be at least 0")
        if self.hidden_act not in ACT2FN:
            raise unknown("hidden_act", self.hidden_act, ACT2FN)
        divides = self.hidden_size % self.num_attention_heads == 0
        _require(self, "num_attention_heads", divides, f"must divide hidden_size={self.hidden_size}")
        if isinstance(self.moe_layers, str):
            if self.moe_layers not in ("all", "none"):
                raise unknown("moe_layers", self.moe_layers, ["all", "none", "a list of block indices"])
        else:
            for index in self.moe_layers:
                if not 0 <= index < self.num_hidden_layers:
                    raise WideNetError(
                        f"moe_layers names block {index}, but the blocks are 0 to {self.num_hidden_layers - 1}"
                    )
        groups = self.num_sharing_groups
        fits = groups >= 1 and self.num_hidden_layers % groups == 0
        _require(self, "num_sharing_groups", fits, f"must divide num_hidden_layers={self.num_hidden_layers}")
        if not self.moe_blocks:
            return
        groups = self.num_routing_groups or 0
        fits = groups >= 1 and self.num_hidden_layers % groups == 0
        _require(self, "num_routing_groups", fits, f"must divide num_hidden_layers={self.num_hidden_layers}")
        _require(self, "num_experts", self.num_experts >= 1, "must be at least 1")
        in_range = 1 <= self.num_experts_per_tok <= self.num_experts
        _require(self, "num_experts_per_tok", in_range, f"must be between 1 and num_experts={self.num_experts}")
        _require(self, "expert_intermediate_size", (self.expert_intermediate_size or 0) >= 1, "must be at least 1")
        for name in ("capacity_factor", "eval_capacity_factor"):
            value = getattr(self, name)
            _require(
                self,
                name,
                value is None or 0 < value < float("inf"),
                "must be above 0, or None to never drop",
            )
        for name in ("router_noise_std", "router_aux_loss_coef"):
            _require(self, name, 0 <= getattr(self, name) < float("inf"), "must be at least 0")

    @property
    def moe_blocks(self) -> list[int]:
        """Indices of the blocks that hold a mixture, ascending."""
        if isinstance(self.moe_layers, str):
            return list(range(self.num_hidden_layers)) if self.moe_layers == "all" else []
        return sorted(set(self.moe_layers))

    def depth_plan(self) -> list[Step]:
        """Return what each of the B blocks uses.

        With ``share_ffn`` the dense blocks of a sharing group (of all blocks, where there is one group) use one
        dense feed-forward and its mixtures one set of experts; otherwise each block has its own. Only blocks that
        compute a routing have a router: the first mixture of each routing group.
        """
        self.check()
        moe_blocks = set(self.moe_blocks)
        routing_size = self.num_hidden_layers // (self.num_routing_groups or 1)
        sharing_size = self.num_hidden_layers // self.num_sharing_groups
        numbers: dict[str, dict[int, int]] = {}
        routed = set()

        def module(kind: str, shared: bool | None, block: int) -> int:
            """Number the modules of a kind in the order of their first use."""
            seen = numbers.setdefault(kind, {})
            return seen.setdefault(block // sharing_size if shared else block, len(seen))

        plan: list[Step] = []
        for block in range(self.num_hidden_layers):
            attention = module("attention", self.share_attention, block)
            norms = module("norms", self.share_norm, block)
            dense = experts = router = None
            if block not in moe_blocks:
                dense = module("dense", self.share_ffn, block)
            else:
                experts = module("experts", self.share_ffn, block)
                if block // routing_size not in routed:
                    routed.add(block // routing_size)
                    router = module("router", self.share_router, block)
            plan.append(Step(attention, norms, dense, experts, router))
        return plan


@strict
class WideNetVisionConfig(WideNetConfig):
    """An image model: patches in, classes out. Adds to :class:`WideNetConfig`:

    Args:
        image_size: height and width of the image in pixels.
        patch_size: height and width of a patch; must divide ``image_size``.
        num_channels: colour channels of the image.
        pooling: "mean" averages the patch tokens (MoE models); "cls" adds a [CLS] token and uses it (ViT).
        use_representation: a D → D layer with tanh before the classifier, as in ImageNet pretraining;
            left out for fine-tuning.
        num_register_tokens: learned tokens between [CLS] and the patches that attention alone reads (registers,
            DeiT's distillation token). The paper has none.
        norm_after_pooling: the final LayerNorm acts on the pooled vector, and not on every token before (timm's
            ``fc_norm``).
    """

    model_type = "widenet_vision"

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    pooling: str = "mean"
    use_representation: bool = False
    num_register_tokens: int = 0
    norm_after_pooling: bool = False

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: [CLS], where pooling is "cls", and the registers."""
        return (self.pooling == "cls") + self.num_register_tokens

    @property
    def num_tokens(self) -> int:
        """L, the tokens of one image."""
        return self.num_prefix_tokens + self.num_patches

    def check(self) -> None:
        """Raise :class:`WideNetError` for the first value that cannot be built."""
        super().check()
        for name in ("image_size", "patch_size", "num_channels", "num_labels"):
            _require(self, name, getattr(self, name) >= 1, "must be at least 1")
        _require(
            self,
            "patch_size",
            self.image_size % self.patch_size == 0,
            f"must divide image_size={self.image_size}",
        )
        _require(self, "num_register_tokens", self.num_register_tokens >= 0, "must be at least 0")
        has_norm = self.norm_first or not self.norm_after_pooling
        _require(self, "norm_after_pooling", has_norm, "needs norm_first=True: post-LN blocks have no final norm")
        if self.pooling not in ("cls", "mean"):
            raise unknown("pooling", self.pooling, ["cls", "mean"])


@strict
class WideNetTextConfig(WideNetConfig):
    """A text model: token ids in; words, classes or spans out. Adds to :class:`WideNetConfig`, and changes two of
    its defaults to BERT's and ALBERT's (``layer_norm_eps=1e-12``, ``norm_first=False``):

    Args:
        vocab_size: V, the number of words and word pieces.
        embedding_size: width of the embeddings, projected to ``hidden_size`` (ALBERT's factorisation). Where
            both are the same there is no projection (BERT).
        max_position_embeddings: the longest input, in tokens.
        type_vocab_size: the number of segments that ``token_type_ids`` tells apart.
        pad_token_id: the padding token; its embedding is zero at the start. None for no such token.
        tie_word_embeddings: the masked-LM decoder is the word embeddings.
    """

    model_type = "widenet_text"
    keys_to_ignore_at_inference = [  # noqa: RUF012 (transformers' own type)
        *WideNetConfig.keys_to_ignore_at_inference,
        "mlm_loss",
        "sentence_order_loss",
    ]

    layer_norm_eps: float = 1e-12
    norm_first: bool = False
    vocab_size: int = 30000
    embedding_size: int = 128
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    @property
    def num_tokens(self) -> int:
        """L, the tokens of the longest text."""
        return self.max_position_embeddings

    def check(self) -> None:
        """Raise :class:`WideNetError` for the first value that cannot be built."""
        super().check()
        for name in ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "num_labels"):
            _require(self, name, getattr(self, name) >= 1, "must be at least 1")
        exists = self.pad_token_id is None or 0 <= self.pad_token_id < self.vocab_size
        _require(self, "pad_token_id", exists, f"must be at least 0 and below vocab_size={self.vocab_size}")


def _require(config: WideNetConfig, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise WideNetError(f"{name}={getattr(config, name)!r} {rule}")
