"""Text: tokens in; words, classes or spans out, around the encoder. ALBERT, BERT and WideNet in one.

Axes: N sequences, L tokens of each, D hidden size, V vocabulary, M labelled tokens.

``attention_mask`` is 1 for tokens and 0 for padding; without one every token counts. Padding is outside
attention, the routers' balance loss, the expert counts and the capacity, so it changes nothing but the shape.
"""

from typing import TypedDict, Unpack, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM
from transformers.activations import ACT2FN

from widenet.config import WideNetTextConfig
from widenet.errors import WideNetError
from widenet.models.heads import register_head
from widenet.models.outputs import (
    WideNetModelOutput,
    WideNetPredictionOutput,
    WideNetPreTrainingOutput,
    WideNetQuestionAnsweringOutput,
    chosen,
    cross_entropy,
    label_loss,
    problem_type,
    records,
    returned,
)
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.nn.encoder import Encoder


class OutputOptions(TypedDict, total=False):
    """What every model returns on request; see :meth:`WideNetTextModel.forward`."""

    output_routing: bool
    output_hidden_states: bool | None
    output_attentions: bool | None


class TextEmbeddings(nn.Module):
    """Words, positions and segments at ``embedding_size``, normalised, then projected to D (ALBERT)."""

    def __init__(self, config: WideNetTextConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection: nn.Module = nn.Identity()
        if width != config.hidden_size:
            self.projection = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Embed token ids [N, L], or words embedded already [N, L, embedding_size], as tokens [N, L, D].

        Raises:
            WideNetError: both or neither are given, they have another shape, or there are too many tokens.
        """
        if input_ids is not None and inputs_embeds is not None:
            raise WideNetError("input_ids and inputs_embeds exclude each other")
        if input_ids is not None:
            if input_ids.dim() != 2:
                raise WideNetError(f"input_ids has shape {tuple(input_ids.shape)}; it must be [sequences, tokens]")
            inputs_embeds = self.word_embeddings(input_ids)
        if inputs_embeds is None:
            raise WideNetError("a text model needs input_ids or inputs_embeds")
        width = self.config.embedding_size
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[-1] != width:
            shape = tuple(inputs_embeds.shape)
            raise WideNetError(f"inputs_embeds has shape {shape}; it must be [sequences, tokens, {width}]")
        (N, L), device = inputs_embeds.shape[:2], inputs_embeds.device
        if position_ids is None:
            longest = self.config.max_position_embeddings
            if longest < L:
                raise WideNetError(
                    f"the input has {L} tokens, the model max_position_embeddings={longest}; shorten or split it"
                )
            position_ids = torch.arange(L, device=device).unsqueeze(0)
        if token_type_ids is None:
            token_type_ids = torch.zeros(N, L, dtype=torch.long, device=device)
        x = inputs_embeds + self.position_embeddings(position_ids) + self.token_type_embeddings(token_type_ids)
        return self.projection(self.dropout(self.norm(x)))


class MaskedLMHead(nn.Module):
    """Words of tokens: D → embedding_size, activation, LayerNorm, and the word embeddings as decoder."""

    def __init__(self, config: WideNetTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the vocabulary for tokens [..., D]: [..., V]."""
        return self.decoder(self.norm(self.act_fn(self.dense(tokens))))

    def score(self, tokens: Tensor, labels: Tensor | None, only_labelled: bool) -> tuple[Tensor, Tensor | None]:
        """Return logits and, where there are labels, their cross-entropy.

        Args:
            tokens: [N, L, D].
            labels: [N, L], -100 where there is none.
            only_labelled: score the M tokens with a label, in reading order: logits [M, V]. The other 85 %
                of the tokens are most of the work of this head and bear on no loss. M depends on the data,
                which costs a GPU one synchronisation with its host.
        """
        if only_labelled:
            if labels is None:
                raise WideNetError("only_labelled=True needs labels")
            labelled = labels != -100  # [N, L]
            tokens, labels = tokens[labelled], labels[labelled]  # [M, D], [M]
        logits = self(tokens)
        return logits, None if labels is None else cross_entropy(logits.flatten(0, -2), labels.flatten())


class WideNetTextPreTrainedModel(WideNetPreTrainedModel):
    """Base of the text models."""

    config_class = WideNetTextConfig
    config: WideNetTextConfig

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self._embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self._embeddings.word_embeddings = cast(nn.Embedding, value)

    @property
    def _embeddings(self) -> TextEmbeddings:
        return cast(WideNetTextModel, self.base_model).embeddings


class WideNetTextModel(WideNetTextPreTrainedModel):
    """The text encoder without a head: any text model of the paper that ``config`` describes.

    Args:
        config: which model.
        add_pooling_layer: False for heads that read every token: a pooler nobody reads gets no gradient.
    """

    def __init__(self, config: WideNetTextConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.pooler: nn.Linear | None = None
        if add_pooling_layer:
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_routing: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> WideNetModelOutput | tuple:
        """Encode text.

        Args:
            input_ids: [N, L] tokens.
            attention_mask: [N, L], 1 for tokens and 0 for padding. None means that every token counts.
            token_type_ids: [N, L] segments, 0 and 1 for the first and the second; 0 by default.
            position_ids: [N, L] or [1, L]; 0 to L - 1 by default.
            inputs_embeds: [N, L, embedding_size], words embedded already, in place of ``input_ids``.
            output_routing: return the routing records.
            output_hidden_states: return the hidden states around every block.
            output_attentions: return the attention probabilities.
            return_dict: False returns a plain tuple.

        Raises:
            WideNetError: the input does not fit the configuration, or the mask the input.
        """
        config = self.config
        x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)  # [N, L, D]
        if attention_mask is not None and attention_mask.shape != x.shape[:2]:
            shape, expected = tuple(attention_mask.shape), tuple(x.shape[:2])
            raise WideNetError(f"attention_mask has shape {shape}; the input is {expected}, [sequences, tokens]")
        encoded = self.encoder(
            x,
            token_mask=attention_mask,
            output_hidden_states=chosen(output_hidden_states, config.output_hidden_states),
            output_attentions=chosen(output_attentions, config.output_attentions),
        )
        tokens = encoded.last_hidden_state  # [N, L, D]
        output = WideNetModelOutput(
            last_hidden_state=tokens,
            pooler_output=None if self.pooler is None else self.pooler(tokens[:, 0]).tanh(),  # [N, D]
            balance_loss=encoded.balance_loss,
            routing=encoded.routing if output_routing else None,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return returned(output, return_dict, config)


class WideNetTextMaskedLMPreTrainedModel(WideNetTextPreTrainedModel):
    """Base of the two models with a masked-LM head, whose decoder is the word embeddings."""

    _tied_weights_keys = {  # noqa: RUF012 (transformers' own type)
        "masked_lm.decoder.weight": "model.embeddings.word_embeddings.weight"
    }
    masked_lm: MaskedLMHead

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder."""
        return self.masked_lm.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder."""
        self.masked_lm.decoder = new_embeddings


class WideNetForPreTraining(WideNetTextMaskedLMPreTrainedModel):
    """Masked LM and ALBERT's sentence-order prediction, which together pretrain a text model."""

    def __init__(self, config: WideNetTextConfig) -> None:
        super().__init__(config)
        self.model = WideNetTextModel(config)
        self.masked_lm = MaskedLMHead(config)
        self.sentence_order = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        only_labelled: bool = False,
        return_dict: bool | None = None,
        **options: Unpack[OutputOptions],
    ) -> WideNetPreTrainingOutput | tuple:
        """Predict masked words and the order of the segments; arguments as :meth:`WideNetTextModel.forward`, and

        Args:
            labels: [N, L] the words behind the masks, -100 for every other token.
            sentence_order_label: [N], 0 where the segments are in order and 1 where they are swapped.
            only_labelled: score the vocabulary at labelled tokens only: logits [M, V], much less work.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        features = self.model(*inputs, return_dict=True, **options)
        logits, mlm_loss = self.masked_lm.score(features.last_hidden_state, labels, only_labelled)
        order_logits = self.sentence_order(features.pooler_output)
        order_loss = (
            None if sentence_order_label is None else cross_entropy(order_logits, sentence_order_label.view(-1))
        )
        losses = [loss for loss in (mlm_loss, order_loss) if loss is not None]
        balance = self.config.router_aux_loss_coef * features.balance_loss
        output = WideNetPreTrainingOutput(
            loss=sum(losses, balance) if losses else None,
            logits=logits,
            sentence_order_logits=order_logits,
            mlm_loss=mlm_loss,
            sentence_order_loss=order_loss,
            **records(features),
        )
        return returned(output, return_dict, self.config)


class WideNetForMaskedLM(WideNetTextMaskedLMPreTrainedModel):
    """Masked LM alone; also of a pretrained model, whose other weights it leaves aside."""

    _keys_to_ignore_on_load_unexpected = [r"^sentence_order\.", r"^model\.pooler\."]  # noqa: RUF012 (transformers' own)

    def __init__(self, config: WideNetTextConfig) -> None:
        super().__init__(config)
        self.model = WideNetTextModel(config, add_pooling_layer=False)
        self.masked_lm = MaskedLMHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        only_labelled: bool = False,
        return_dict: bool | None = None,
        **options: Unpack[OutputOptions],
    ) -> WideNetPredictionOutput | tuple:
        """Predict masked words; arguments as :meth:`WideNetForPreTraining.forward`."""
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        features = self.model(*inputs, return_dict=True, **options)
        logits, loss = self.masked_lm.score(features.last_hidden_state, labels, only_labelled)
        if loss is not None:
            loss = loss + self.config.router_aux_loss_coef * features.balance_loss
        output = WideNetPredictionOutput(loss=loss, logits=logits, **records(features))
        return returned(output, return_dict, self.config)


class WideNetForSequenceClassification(WideNetTextPreTrainedModel):
    """The text encoder with a linear classifier, or a regression, on its pooled output."""

    def __init__(self, config: WideNetTextConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.id2label or {})
        self.model = WideNetTextModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @property
    def is_regression(self) -> bool:
        """Whether it predicts numbers rather than classes."""
        return problem_type(self.config) == "regression"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[OutputOptions],
    ) -> WideNetPredictionOutput | tuple:
        """Classify texts or pairs of texts; arguments as :meth:`WideNetTextModel.forward`, and

        Args:
            labels: as ``config.problem_type`` asks for, see :func:`widenet.models.outputs.label_loss`.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        features = self.model(*inputs, return_dict=True, **options)
        logits = self.classifier(self.dropout(features.pooler_output))  # [N, num_labels]
        loss = None
        if labels is not None:
            loss = label_loss(logits, labels, self.config)
            loss = loss + self.config.router_aux_loss_coef * features.balance_loss  # Eq 8
        output = WideNetPredictionOutput(loss=loss, logits=logits, **records(features))
        return returned(output, return_dict, self.config)


class WideNetForQuestionAnswering(WideNetTextPreTrainedModel):
    """The text encoder with two scores per token: the answer begins here, it ends here (SQuAD)."""

    def __init__(self, config: WideNetTextConfig) -> None:
        super().__init__(config)
        self.model = WideNetTextModel(config, add_pooling_layer=False)
        self.span = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Unpack[OutputOptions],
    ) -> WideNetQuestionAnsweringOutput | tuple:
        """Find answers; arguments as :meth:`WideNetTextModel.forward`, and

        Args:
            start_positions: [N], the answer's first token. One that is no token of the input (the answer was
                cut off) bears on no loss.
            end_positions: [N], its last token.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        features = self.model(*inputs, return_dict=True, **options)
        start, end = self.span(features.last_hidden_state).unbind(-1)  # [N, L] each
        loss = None
        if start_positions is not None and end_positions is not None:
            losses = [
                _span_loss(start, start_positions, attention_mask),
                _span_loss(end, end_positions, attention_mask),
            ]
            loss = sum(losses) / 2 + self.config.router_aux_loss_coef * features.balance_loss
        output = WideNetQuestionAnsweringOutput(
            loss=loss, start_logits=start.contiguous(), end_logits=end.contiguous(), **records(features)
        )
        return returned(output, return_dict, self.config)


def _span_loss(logits: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
    """Cross-entropy of positions [N] under logits [N, L], over tokens alone.

    Unlike transformers' models, padding has no share of the softmax here, so that it does not change the loss,
    and a position below zero is ignored as one beyond the input is.
    """
    positions = positions.view(-1)
    inside = (positions >= 0) & (positions < logits.shape[1])
    if mask is not None:
        logits = logits.masked_fill(~mask.bool(), torch.finfo(logits.dtype).min)
        on_token = mask.bool().gather(1, positions.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
        inside = inside & on_token
    return cross_entropy(logits, positions.where(inside, -100))


AutoConfig.register(WideNetTextConfig.model_type, WideNetTextConfig, exist_ok=True)
register_head("features", WideNetTextModel, pipeline="feature-extraction", auto_class=AutoModel)
register_head("masked-lm", WideNetForMaskedLM, pipeline="fill-mask", auto_class=AutoModelForMaskedLM)
