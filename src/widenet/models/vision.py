"""Images: patches in, classes out, around the encoder.

Axes: N images, C channels, P patch size, L tokens (patches, after a [CLS] token where pooling is "cls" and R
registers where there are any), D hidden size.
"""

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers import initialization as init

from widenet.config import WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.models.heads import register_head
from widenet.models.outputs import (
    WideNetModelOutput,
    WideNetPredictionOutput,
    chosen,
    label_loss,
    records,
    returned,
)
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.nn.encoder import Encoder


class PatchEmbeddings(nn.Module):
    """An image as tokens: P×P patches by a strided convolution, an optional [CLS], registers, learned positions."""

    def __init__(self, config: WideNetVisionConfig) -> None:
        super().__init__()
        self.config = config
        D, R = config.hidden_size, config.num_register_tokens
        self.projection = nn.Conv2d(config.num_channels, D, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D)) if config.pooling == "cls" else None
        self.register_tokens = nn.Parameter(torch.zeros(1, R, D)) if R else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.num_prefix_tokens + config.num_patches, D))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Embed images [N, C, height, width] as tokens [N, L, D].

        Raises:
            WideNetError: channels or size do not fit the configuration.
        """
        if pixel_values.dim() != 4:
            shape = tuple(pixel_values.shape)
            raise WideNetError(f"pixel_values has shape {shape}; it must be [images, channels, height, width]")
        config, (_, channels, height, width) = self.config, pixel_values.shape
        if channels != config.num_channels:
            raise WideNetError(f"the images have {channels} channels, the model num_channels={config.num_channels}")
        positions = self.position_embeddings
        if (height, width) != (config.image_size, config.image_size):
            P = config.patch_size
            if not interpolate_pos_encoding:
                raise WideNetError(
                    f"the images are {height}×{width}, the model has image_size={config.image_size}; "
                    "resize them, or pass interpolate_pos_encoding=True"
                )
            if height % P or width % P:
                raise WideNetError(f"patch_size={P} must divide the image's height and width {height}×{width}")
            positions = resample_abs_pos_embed(
                positions, [height // P, width // P], num_prefix_tokens=config.num_prefix_tokens
            )
        x = self.projection(pixel_values.to(self.projection.weight.dtype))  # [N, D, height/P, width/P]
        x = x.flatten(2).transpose(1, 2)  # [N, patches, D]
        prefix = [tokens for tokens in (self.cls_token, self.register_tokens) if tokens is not None]
        if prefix:
            x = torch.cat([*(tokens.expand(x.shape[0], -1, -1) for tokens in prefix), x], dim=1)  # [N, L, D]
        return self.dropout(x + positions)


class WideNetVisionPreTrainedModel(WideNetPreTrainedModel):
    """Base of the image models."""

    config_class = WideNetVisionConfig
    config: WideNetVisionConfig
    main_input_name = "pixel_values"
    _input_embed_layer = "projection"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PatchEmbeddings):
            init.normal_(module.position_embeddings, std=self.config.initializer_range)
            for tokens in (module.cls_token, module.register_tokens):
                if tokens is not None:
                    init.normal_(tokens, std=self.config.initializer_range)


class WideNetVisionModel(WideNetVisionPreTrainedModel):
    """The image encoder without a head: any model of the paper that ``config`` describes."""

    def __init__(self, config: WideNetVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = PatchEmbeddings(config)
        self.encoder = Encoder(config)
        self.norm: nn.Module = nn.Identity()
        if config.norm_after_pooling:  # the encoder's, which then leaves its tokens as they are
            self.norm, self.encoder.final_norm = self.encoder.final_norm, self.norm
        self.representation: nn.Linear | None = None
        if config.use_representation:
            self.representation = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.embeddings.projection

    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        output_routing: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> WideNetModelOutput | tuple:
        """Encode images.

        Args:
            pixel_values: [N, C, image_size, image_size], normalised.
            interpolate_pos_encoding: accept other sizes by interpolating the position embeddings.
            output_routing: return the routing records.
            output_hidden_states: return the hidden states around every block.
            output_attentions: return the attention probabilities.
            return_dict: False returns a plain tuple.

        Raises:
            WideNetError: the images do not fit the configuration.
        """
        config = self.config
        encoded = self.encoder(
            self.embeddings(pixel_values, interpolate_pos_encoding),
            output_hidden_states=chosen(output_hidden_states, config.output_hidden_states),
            output_attentions=chosen(output_attentions, config.output_attentions),
        )
        tokens = encoded.last_hidden_state  # [N, L, D]
        pooled = tokens[:, 0] if config.pooling == "cls" else tokens[:, config.num_register_tokens :].mean(1)  # [N, D]
        pooled = self.norm(pooled)
        if self.representation is not None:
            pooled = self.representation(pooled).tanh()
        output = WideNetModelOutput(
            last_hidden_state=tokens,
            pooler_output=pooled,
            balance_loss=encoded.balance_loss,
            routing=encoded.routing if output_routing else None,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return returned(output, return_dict, config)


class WideNetForImageClassification(WideNetVisionPreTrainedModel):
    """The image encoder with a linear classifier on its pooled output."""

    def __init__(self, config: WideNetVisionConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.id2label or {})
        self.model = WideNetVisionModel(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_routing: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> WideNetPredictionOutput | tuple:
        """Classify images; arguments as :meth:`WideNetVisionModel.forward`, and

        Args:
            labels: as ``config.problem_type`` asks for, see :func:`widenet.models.outputs.label_loss`.
        """
        features = self.model(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_routing=output_routing,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.classifier(features.pooler_output)
        loss = None
        if labels is not None:
            loss = label_loss(logits, labels, self.config)
            loss = loss + self.config.router_aux_loss_coef * features.balance_loss  # Eq 8
        output = WideNetPredictionOutput(loss=loss, logits=logits, **records(features))
        return returned(output, return_dict, self.config)


AutoConfig.register(WideNetVisionConfig.model_type, WideNetVisionConfig, exist_ok=True)
register_head("features", WideNetVisionModel, pipeline="image-feature-extraction", auto_class=AutoModel)
