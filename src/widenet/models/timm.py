"""The image models under timm's names and with timm's interface.

A thin shell around :class:`WideNetForImageClassification`, whose two modules it takes over, so that its state
dict is that model's and a checkpoint of one loads into the other. The architecture is not repeated here.

timm's training script minimises ``loss_fn(model(images), labels)`` and knows of no other loss. In training the
model therefore returns its logits as a :class:`WithBalance`, which puts λ·Σ l of Eq 8 into the gradient.

Axes: N images, L tokens of each, D hidden size, B blocks, P patch size.
"""

from typing import Any

import torch
from timm.layers.pool1d import global_pool_nlc
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from widenet.config import WideNetVisionConfig
from widenet.errors import WideNetError, unknown
from widenet.models.presets import create_config
from widenet.models.vision import WideNetForImageClassification
from widenet.nn.encoder import EncoderOutput

# timm's words for what we name as transformers does.
_FIELDS = {
    "in_chans": "num_channels",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "proj_drop_rate": "hidden_dropout_prob",
    "attn_drop_rate": "attention_probs_dropout_prob",
}
_POOLS = ("", "avg", "max", "avgmax", "token")
_POSITIONS = "model.embeddings.position_embeddings"
# Which of the encoder's lists the fields of a Step count in.
_LISTS = {
    "attention": "attentions",
    "norms": "norms",
    "dense": "feed_forwards",
    "experts": "experts",
    "router": "routers",
}


class WithBalance(Tensor):
    """A tensor of a training step that carries an extra loss into the first number that is made of it.

    What is computed from it carries the same extra loss, once. A result without axes, such as a mean
    cross-entropy, is a plain tensor: its *value* is unchanged, its *gradient* is that of the number plus the
    extra loss. What is done to that number afterwards (the scale of mixed precision, the division for
    gradient accumulation, the mean over processes) is done to both, as if the extra loss had been added by hand.

    Every number made of the tensor carries the extra loss: of a·l₁ + b·l₂ over the same logits the gradient
    has it a + b times. Nothing is carried without gradients, nor through what PyTorch's function protocol does
    not see: ``autograd.Function.apply``, ``DataParallel`` and ``logits.backward(gradient)``.
    """

    carried: tuple[Tensor, ...]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as on plain tensors, then hand the extra losses of the arguments on to the results."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            results = func(*args, **kwargs)
            sources = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, WithBalance)]
            losses = {id(loss): loss for source in sources for loss in source.carried}
            if isinstance(results, torch.Size):  # to tree_map a tuple
                return results
            return tree_map(lambda result: _carry(result, *losses.values()), results)


def _carry(result: Any, *losses: Tensor) -> Any:
    """Return ``result``, carrying ``losses`` where it is a tensor with a gradient."""
    if not losses or not isinstance(result, Tensor) or not result.requires_grad or not result.is_floating_point():
        return result
    if result.dim() == 0:
        for loss in losses:
            result = result + (loss - loss.detach()).to(result.dtype)  # zero, with a gradient
        return result
    if not isinstance(result, WithBalance):  # in-place functions return what they were given
        result = result.as_subclass(WithBalance)
    result.carried = losses
    return result


class WideNetTimmModel(nn.Module):
    """An image model of this package as timm's tools expect one.

    Args:
        preset: which model, one of :func:`widenet.list_models`.
        img_size: height and width of the image in pixels; they must be equal.
        num_classes: classes; 0 leaves the classifier out.
        global_pool: how tokens become one vector: "avg", "max", "avgmax", "token" (adds a [CLS] token where the
            preset has none), or "" for all tokens. None is the preset's.
        drop_rate: dropout before the classifier.
        dynamic_img_size: accept other sizes by interpolating the position embeddings.
        drop_path_rate: 0; these models have no stochastic depth.
        device: where to make the weights; "meta" makes none.
        dtype: of the weights; routers are float32 in half precision, too.
        **fields: config fields by our names or timm's: ``patch_size``, ``in_chans``, ``embed_dim``, ``depth``,
            ``num_heads``, ``proj_drop_rate``, ``attn_drop_rate``, ``num_experts``, … ``timm.create_model`` leaves
            out those that are None: for no capacity set ``model.config.capacity_factor = None``.

    Raises:
        WideNetError: an argument does not exist or does not fit.
    """

    def __init__(
        self,
        preset: str,
        img_size: int | tuple[int, int] | None = None,
        num_classes: int | None = None,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        dynamic_img_size: bool = False,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **fields: Any,
    ) -> None:
        super().__init__()
        if drop_path_rate:
            raise WideNetError(f"drop_path_rate={drop_path_rate}, but these models have no stochastic depth")
        fields = {_FIELDS.get(name, name): value for name, value in fields.items()}
        if img_size is not None:
            height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
            if height != width:
                raise WideNetError(f"img_size={height}×{width} is not square; dynamic_img_size=True reads any shape")
            fields["image_size"] = height
        if num_classes:
            fields["num_labels"] = num_classes
        if global_pool:
            fields["pooling"] = "cls" if global_pool == "token" else "mean"
        with torch.device(device or torch.get_default_device()):
            whole = WideNetForImageClassification._from_config(create_config(preset, **fields), dtype=dtype)
        self.model = whole.model
        self.classifier: nn.Module = whole.classifier
        config = self.config
        self.num_features = self.head_hidden_size = self.embed_dim = config.hidden_size
        self.in_chans, self.patch_size, self.img_size = config.num_channels, config.patch_size, config.image_size
        self.num_prefix_tokens = config.num_prefix_tokens
        self.dynamic_img_size = dynamic_img_size
        self.global_pool = "token" if config.pooling == "cls" else "avg"
        self.head_drop = nn.Dropout(drop_rate)
        self.num_classes = whole.num_labels
        self.feature_info = [
            {"module": f"block{index}", "num_chs": self.embed_dim, "reduction": self.patch_size}
            for index in range(config.num_hidden_layers)
        ]
        if num_classes == 0 or global_pool not in (None, self.global_pool):
            self.reset_classifier(self.num_classes if num_classes is None else num_classes, global_pool)

    @property
    def config(self) -> WideNetVisionConfig:
        """The configuration, by which ``WideNetForImageClassification`` is the same model.

        Its ``pooling`` says whether there is a [CLS] token and stays as it is where ``global_pool`` changes: it has
        no word for the maximum, nor for a mean beside an unused [CLS] token.
        """
        return self.model.config

    # ---- forward ----

    def forward(self, x: Tensor) -> Tensor:
        """Classify images [N, channels, height, width]: logits [N, num_classes].

        In training they carry λ·Σ l, see :class:`WithBalance`; at evaluation they are plain.
        """
        encoded, extra = self._encode(x)
        return _carry(self.forward_head(encoded.last_hidden_state), *extra)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the tokens [N, L, D] after the last block and the final norm; in training they carry λ·Σ l."""
        encoded, extra = self._encode(x)
        return _carry(encoded.last_hidden_state, *extra)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool tokens [N, L, D], apply the representation layer where there is one, and classify.

        Args:
            x: tokens as :meth:`forward_features` returns them.
            pre_logits: return what the classifier would read.
        """
        if self.global_pool:
            x = self.model.norm(global_pool_nlc(x, self.global_pool, num_prefix_tokens=self.num_prefix_tokens))
            if self.model.representation is not None:
                x = self.model.representation(x).tanh()
        x = self.head_drop(x)
        return x if pre_logits else self.classifier(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Return what blocks put out, with the final tokens.

        Args:
            x: [N, channels, height, width].
            indices: the last so many blocks, or these blocks; all where None.
            return_prefix_tokens: pair each with its [CLS] token, where there is one.
            norm: apply the final norm to each.
            stop_early: leave out the blocks after the last one asked for. The final tokens, and the balance
                loss, are then those of the blocks before.
            output_fmt: "NCHW" [N, D, height/P, width/P] or "NLC" [N, patches, D].
            intermediates_only: return the list alone.
            output_dict: return a dictionary with ``image_intermediates``, ``image_intermediates_prefix`` and
                ``image_features``.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise unknown("output_fmt", output_fmt, ["NCHW", "NLC"])
        encoder, prefix = self.model.encoder, self.num_prefix_tokens
        take, last = feature_take_indices(len(encoder.plan), indices)
        encoded, extra = self._encode(x, output_hidden_states=True, num_blocks=last + 1 if stop_early else None)
        grid = x.shape[2] // self.patch_size, x.shape[3] // self.patch_size
        intermediates, prefixes = [], []
        for index, tokens in enumerate((encoded.hidden_states or ())[1:]):  # [N, L, D] each
            if index not in take:
                continue
            tokens = _carry(encoder.final_norm(tokens) if norm else tokens, *extra)
            prefixes.append(tokens[:, :prefix])
            tokens = tokens[:, prefix:]
            if output_fmt == "NCHW":
                tokens = tokens.transpose(1, 2).unflatten(2, grid).contiguous()
            intermediates.append(tokens)
        final = _carry(encoded.last_hidden_state, *extra)
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": intermediates}
            if prefix and return_prefix_tokens:
                result["image_intermediates_prefix"] = prefixes
            return result if intermediates_only else {**result, "image_features": final}
        if prefix and return_prefix_tokens:
            intermediates = list(zip(intermediates, prefixes, strict=True))
        return intermediates if intermediates_only else (final, intermediates)

    def _encode(self, x: Tensor, **options: Any) -> tuple[EncoderOutput, tuple[Tensor, ...]]:
        """Run the encoder; also return (λ·Σ l,) in training and () otherwise.

        Not at evaluation: gradients are then asked for to explain a prediction, not to train.
        """
        encoded = self.model.encoder(self.model.embeddings(x, self.dynamic_img_size), **options)
        coefficient = self.config.router_aux_loss_coef
        carries = self.training and coefficient and encoded.balance_loss.requires_grad
        return encoded, (coefficient * encoded.balance_loss,) if carries else ()

    # ---- what timm's tools ask a model ----

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in, or none for 0 classes; the representation layer stays.

        Args:
            num_classes: classes.
            global_pool: change the pooling, too, but not :attr:`config`; "token" needs a model with a [CLS] token.
        """
        if global_pool is not None:
            if global_pool not in _POOLS:
                raise unknown("global_pool", global_pool, _POOLS)
            if global_pool == "token" and self.model.embeddings.cls_token is None:
                raise WideNetError('global_pool="token", but the model has no [CLS] token')
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.classifier = nn.Identity()
        if num_classes:
            weight = self.model.embeddings.projection.weight
            self.config.num_labels = num_classes
            classifier = nn.Linear(self.embed_dim, num_classes, device=weight.device, dtype=weight.dtype)
            nn.init.normal_(classifier.weight, std=self.config.initializer_range)
            nn.init.zeros_(classifier.bias)
            self.classifier = classifier.train(self.training)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks after the last one of ``indices``, and the modules that only they use.

        Returns:
            The indices, counted from the first block.
        """
        encoder = self.model.encoder
        take, last = feature_take_indices(len(encoder.plan), indices)
        encoder.plan = encoder.plan[: last + 1]
        for field, name in _LISTS.items():  # a list is in the order of first use
            used = {getattr(step, field) for step in encoder.plan} - {None}
            setattr(encoder, name, getattr(encoder, name)[: len(used)])
        if prune_norm:
            encoder.final_norm = nn.Identity()
        if prune_head:
            self.model.norm = nn.Identity()
            self.model.representation = None
            self.reset_classifier(0, "")
        return take

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        # transformers 5.23 renamed both.
        word = "activation" if hasattr(self.model, "activation_checkpointing_enable") else "gradient"
        if enable:
            getattr(self.model, f"{word}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.model, f"{word}_checkpointing_disable")()

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: positions, [CLS], registers, and the experts' biases.

        timm leaves biases out by their number of axes; those of the experts have two, [E, H].
        """
        undecayed = ("embeddings.position_embeddings", "cls_token", "register_tokens", "_bias")
        return {name for name, _ in self.named_parameters() if name.endswith(undecayed)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Say which depth a parameter belongs to, for layer-wise learning rates.

        A module belongs to the *last* block that uses it. A shared attention or mixture so has the learning rate
        of the last block, and the decay acts on the embeddings and the blocks' own LayerNorms; without sharing it
        is timm's grouping of a ViT.
        """
        depth: dict[str, int] = {}
        for block, step in enumerate(self.model.encoder.plan):
            for field, name in _LISTS.items():
                if (index := getattr(step, field)) is not None:
                    depth[rf"^model\.encoder\.{name}\.{index}\."] = block
        blocks = [(pattern, (block,)) for pattern, block in depth.items()]
        # 99999 is timm's sign for "with the group before".
        return {"stem": r"^model\.embeddings", "blocks": [*blocks, (r"^model\.encoder\.final_norm", (99999,))]}


def _adapt_checkpoint(state: dict[str, Tensor], model: WideNetTimmModel) -> dict[str, Tensor]:
    """Fit a checkpoint to another image size, and to a model without the representation layer."""
    state, expected = dict(state), model.model.embeddings.position_embeddings
    positions = state.get(_POSITIONS)
    if positions is not None and positions.shape != expected.shape:
        side = model.img_size // model.patch_size
        state[_POSITIONS] = resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=model.num_prefix_tokens)
    if model.model.representation is None:
        state = {name: value for name, value in state.items() if ".representation." not in name}
    if not model.num_classes:
        state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    return state


# No weights to download. Images are scaled as for timm's ViTs, to [-1, 1].
_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "model.embeddings.projection",
    "classifier": "classifier",
    "license": "apache-2.0",
}
_VARIANTS = {
    "widenet_tiny_patch16_224": "widenet-ti16",
    "widenet_base_patch16_224": "widenet-b16",
    "widenet_large_patch16_224": "widenet-l16",
    "widenet_huge_patch16_224": "widenet-h16",
    "vit_moe_base_patch16_224": "vit-moe-b16",
    "vit_moe_large_patch16_224": "vit-moe-l16",
}
default_cfgs = generate_default_cfgs(dict.fromkeys(_VARIANTS, _CFG))  # register_model looks for it


def _register(variant: str, preset: str) -> None:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        features = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
        options = {"preset": preset, "pretrained_filter_fn": _adapt_checkpoint, "feature_cfg": features, **kwargs}
        return build_model_with_cfg(WideNetTimmModel, variant, pretrained, **options)

    build.__name__ = build.__qualname__ = variant  # by which timm knows it, and finds it in this module
    build.__doc__ = f"Return the preset {preset} as a model of timm."
    globals()[variant] = register_model(build)


for _variant, _preset in _VARIANTS.items():
    _register(_variant, _preset)
