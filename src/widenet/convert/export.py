"""Models as ONNX files, for ONNX Runtime and other engines, in which each shared weight stands once.

Every expert is in the graph and picks its own tokens there. So nothing depends on the example that a model is traced
with, and no expert computes a token that was not sent to it.

Axes: N images or sequences, L tokens of each, T = N·L, D hidden size, E experts, K experts a token, H hidden size of
an expert, R tokens of one expert.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from widenet.config import WideNetConfig, WideNetVisionConfig
from widenet.convert.sources import from_dense, read_source
from widenet.errors import WideNetError
from widenet.models.heads import head_of
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.nn.attention import Attention
from widenet.nn.backends import WeightCache
from widenet.nn.encoder import FeedForward
from widenet.nn.experts import Experts

OPSET = 20  # the first with GELU
LARGEST = 2**31 - 2**20  # bytes of weights in one file; protobuf ends at 2 GiB, and the graph needs a little
IN_INT8 = (".attentions.", ".feed_forwards.", ".experts.")  # parts of the names of weights
WORDS = "embeddings.word_embeddings.weight"


def export_onnx(
    model_or_path: nn.Module | str | Path, output: str | Path, *, int8: bool = False, overwrite: bool = False
) -> Path:
    """Write a model as one ONNX file in float32, for any number of images, or of texts of any length.

    Inputs have the models' own names: ``pixel_values`` [batch, channels, height, width]; or ``input_ids``,
    ``attention_mask`` and, where the model tells segments apart, ``token_type_ids``, int64 [batch, sequence]. So do
    outputs, which are those of plain inference: ``logits``, ``start_logits`` and so on (``outputs.py``).

    Args:
        model_or_path: a model of this package, dense or not, or the run or model folder of one; or a dense one, as
            for :func:`from_dense`, but no public name.
        output: the file, ``*.onnx``.
        int8: store the weights of attentions, feed-forwards and experts as 8-bit integers and multiply in 8 bits.
            Word embeddings are stored so too, unless a masked-LM head has them as its decoder. Routers, LayerNorms
            and heads stay float32.
        overwrite: replace the file if there is one.

    Returns:
        The file. Its metadata name the model's class, its task and, of a classifier, its classes (``id2label``, JSON).

    Raises:
        WideNetError: the folder cannot be read or holds a model of another architecture, the file exists already
            or cannot be written, the model is too large for one file, or a package for exporting is missing.
    """
    output = Path(output)
    _check_output(output, overwrite)
    for package in ("onnx", "onnxscript", *(["onnxruntime"] if int8 else [])):
        _import(package)
    source: Any = model_or_path
    if not isinstance(source, nn.Module):
        if not Path(source).is_dir():
            raise WideNetError(f"model folder {source} does not exist")
        source = read_source(Path(source))
    if not isinstance(source, WideNetPreTrainedModel):
        source = from_dense(source)
    size = 4 * sum(parameter.numel() for parameter in source.parameters())
    if size > LARGEST:
        raise WideNetError(f"the model has {size:,} bytes of weights; one ONNX file holds at most {LARGEST:,}")
    partial = output.with_name(f"{output.name}.partial")
    try:
        with _silence():
            graph = _trace(source)
            if int8:
                graph = _in_int8(graph)
            _import("onnx").helper.set_model_props(graph, _properties(source))
            _import("onnx").save(graph, partial)
        partial.replace(output)
    except OSError as error:
        raise WideNetError(f"{output} cannot be written: {error.strerror or error}") from error
    except torch.onnx.OnnxExporterError as error:
        raise WideNetError(f"the model cannot be exported: {' '.join(str(error).split())[:300]}") from error
    finally:
        partial.unlink(missing_ok=True)
    return output


def _properties(model: WideNetPreTrainedModel) -> dict[str, str]:
    """Return what the file says of its model: class, task and, of a classifier, the names of its classes."""
    head, found = head_of(type(model)), {"architecture": type(model).__name__}
    if head is not None:
        found["task"] = head.name
    if hasattr(model, "classifier"):
        found["id2label"] = json.dumps(model.config.id2label, ensure_ascii=False)
    return found


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix != ".onnx":  # above all, no model.safetensors to be replaced
        raise WideNetError(f"{output} must end in .onnx")
    if not output.parent.is_dir():
        raise WideNetError(f"{output} cannot be written: the folder {output.parent} does not exist")
    if output.is_dir():
        raise WideNetError(f"{output} is a folder; choose another --output")
    if output.exists() and not overwrite:
        raise WideNetError(f"{output} exists already; choose another --output, or add --overwrite to replace it")


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise WideNetError(f"an ONNX file needs the package {package}: pip install 'widenet[export]'") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's talk to itself: what fails is an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class OnnxModel(nn.Module):
    """An ONNX file in the place of its model where that is tested: the same arguments, the same outputs.

    Outputs have no routing, and a balance loss of zero.

    Args:
        file: written by :func:`export_onnx`.
        config: the model's.

    Raises:
        WideNetError: onnxruntime is missing, or it cannot read the file.
    """

    device = torch.device("cpu")

    def __init__(self, file: str | Path, config: WideNetConfig) -> None:
        super().__init__()
        self.config = config
        try:
            self.session = _import("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
        except WideNetError:
            raise
        except Exception as error:  # onnxruntime's own have no common base
            raise WideNetError(f"{file} cannot be loaded: {' '.join(str(error).split())[:300]}") from error

    def forward(self, output_routing: bool = False, **batch: Tensor) -> SimpleNamespace:
        """Return the outputs by name, for a batch of tensors by name; what the file has no input for is left out."""
        inputs = {each.name: batch[each.name].numpy() for each in self.session.get_inputs()}
        names = [each.name for each in self.session.get_outputs()]
        found = map(torch.from_numpy, self.session.run(names, inputs))
        return SimpleNamespace(**dict(zip(names, found, strict=True)), balance_loss=torch.zeros(()), routing=())


# ---- tracing ----


@torch.no_grad()
def _trace(source: WideNetPreTrainedModel) -> Any:
    """Return a model as ``onnx.ModelProto``."""
    ir, passes = _import("onnx_ir"), _import("onnx_ir.passes.common")
    model = _exportable(source)
    config: Any = model.config
    dims: dict[int, Any] = {0: Dim("batch")}
    if isinstance(config, WideNetVisionConfig):
        names = ["pixel_values"]
        example = torch.zeros(2, config.num_channels, config.image_size, config.image_size)
    else:
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if config.type_vocab_size > 1 else [])]
        example = torch.ones(2, min(8, config.max_position_embeddings), dtype=torch.long)
        dims[1] = Dim("sequence", max=config.max_position_embeddings)
    inputs = tuple(example.clone() for _ in names)  # one tensor given twice would be one input
    output = model(**dict(zip(names, inputs, strict=True)), return_dict=True)
    results = [name for name in output if name not in config.keys_to_ignore_at_inference]
    plain = _Plain(model, names, results).eval()
    graph = _export(plain, inputs, ((dims,) * len(inputs),), names, results)
    if config.moe_blocks:
        graph.functions[("widenet", "Expert", "")] = _expert_function(model)
        passes.InlinePass()(graph)
        graph.opset_imports.pop("widenet", None)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
        passes.DeduplicateInitializersPass()(graph)
    passes.ClearMetadataAndDocStringPass()(graph)
    found = ir.to_proto(graph)
    # Shapes in between follow from the rest. They and the exporter's notes are as large as a small model.
    del found.graph.value_info[:]
    return found


def _export(module: nn.Module, inputs: tuple[Tensor, ...], dynamic: Any, names: list[str], results: list[str]) -> Any:
    program = torch.onnx.export(
        module,
        inputs,
        input_names=names,
        output_names=results,
        dynamic_shapes=dynamic,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    return cast(Any, program).model


def _exportable(source: WideNetPreTrainedModel) -> Any:
    """Return a copy in float32 whose weight matrices lie in memory as ONNX multiplies with them.

    Left to the exporter, every block would transpose them anew, and take the experts' stacks apart.
    """
    model: Any = deepcopy(source).float().cpu().eval()
    model.set_attn_implementation("eager")
    for module in list(model.modules()):
        if isinstance(module, Attention | FeedForward):
            for name, child in module.named_children():
                if isinstance(child, nn.Linear):
                    setattr(module, name, _Linear(child))
    encoder = model.base_model.encoder
    encoder.experts = nn.ModuleList(_Experts(experts) for experts in encoder.experts)
    return model


class _Plain(nn.Module):
    """A model that takes its inputs and returns its outputs in a fixed order."""

    def __init__(self, model: nn.Module, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.inputs, inputs, strict=True)), return_dict=True)
        return tuple(output[name] for name in self.outputs)


class _Linear(nn.Module):
    """A linear layer whose weight is [in, out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = _kept(linear.weight.t())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class _Experts(nn.Module):
    """Experts, each a call of the ONNX function that :class:`_Expert` becomes.

    A call is opaque to tracing, which otherwise would take minutes: R depends on the data, and each of the B·E
    different R is a new unknown.
    """

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.up_proj = nn.ParameterList(_kept(weight.t()) for weight in experts.up_proj)  # E times [D, H]
        self.up_proj_bias = nn.ParameterList(_kept(bias) for bias in experts.up_proj_bias)
        self.down_proj = nn.ParameterList(_kept(weight.t()) for weight in experts.down_proj)  # E times [H, D]
        self.down_proj_bias = nn.ParameterList(_kept(bias) for bias in experts.down_proj_bias)
        self.act_fn = experts.act_fn

    def forward(
        self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, cache: WeightCache | None = None
    ) -> Tensor:
        """As :meth:`Experts.forward`."""
        E = len(self.up_proj)
        chosen = top_k_index.unsqueeze(-1) == torch.arange(E)  # [T, K, E]
        gates = (chosen * top_k_weights.unsqueeze(-1)).sum(1)  # [T, E]
        total = torch.zeros_like(hidden_states)  # [T, D]
        for e, gate in enumerate(gates.unbind(1)):
            weights = self.up_proj[e], self.up_proj_bias[e], self.down_proj[e], self.down_proj_bias[e]
            total = torch.onnx.ops.symbolic(
                "widenet::Expert",
                (total, hidden_states, gate, *weights),
                dtype=total.dtype,
                shape=total.shape,
                version=1,
            )
        return total


class _Expert(nn.Module):
    """One expert, its weights arguments: adds its share of the mixture to what the experts before it added."""

    def __init__(self, act_fn: nn.Module) -> None:
        super().__init__()
        self.act_fn = act_fn

    def forward(
        self, total: Tensor, tokens: Tensor, gate: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor
    ) -> Tensor:
        """Return [T, D], given total and tokens [T, D] and gate [T], which is zero where a token is not sent here."""
        rows = gate.nonzero().flatten()  # [R]
        inner = self.act_fn(tokens.index_select(0, rows) @ up + up_bias)  # [R, H]
        output = (inner @ down + down_bias) * gate.index_select(0, rows).unsqueeze(1)  # [R, D]
        return total.index_add(0, rows, output)


def _expert_function(model: Any) -> Any:
    """Return :class:`_Expert` as ``onnx_ir.Function``."""
    ir = _import("onnx_ir")
    experts = model.base_model.encoder.experts[0]
    weights = experts.up_proj[0], experts.up_proj_bias[0], experts.down_proj[0], experts.down_proj_bias[0]
    total, tokens = torch.zeros(2, 4, len(weights[0])).unbind()
    T = Dim("tokens")
    dynamic = ({0: T}, {0: T}, {0: T}, *(None,) * 4)
    names = ["total", "tokens", "gate", "up", "up_bias", "down", "down_bias"]
    inputs = (total, tokens, torch.zeros(4), *weights)
    graph = _export(_Expert(experts.act_fn).eval(), inputs, dynamic, names, ["sum"]).graph
    for value in list(graph.initializers.values()):  # a function has none
        constant = ir.node("Constant", [], {"value": value.const_value})
        graph.insert_before(graph[0], constant)
        value.replace_all_uses_with(constant.outputs[0])
    graph.initializers.clear()
    for node in graph:
        for value in node.outputs:
            value.shape = None  # R has a name there, and would be one number for all experts
    return ir.Function("widenet", "Expert", graph=graph, attributes=[])


def _kept(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


# ---- 8 bits ----


def _in_int8(model: Any) -> Any:
    """Return an ``onnx.ModelProto`` with its large weights in 8 bits."""
    onnx, quantization = _import("onnx"), _import("onnxruntime.quantization")
    readers = [name for node in model.graph.node for name in node.input]
    nodes = []
    for node in model.graph.node:
        in_int8 = node.op_type == "MatMul" and any(part in node.input[1] for part in IN_INT8)
        words = node.op_type == "Gather" and node.input[0].endswith(WORDS) and readers.count(node.input[0]) == 1
        if in_int8 or words:
            nodes.append(node.name)
    _turn_shared(model.graph, onnx)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        # Processors without 8-bit dot products overflow in sums of two products of 8 bits by 8, not by 7.
        quantization.quantize_dynamic(model, file, nodes_to_quantize=nodes, per_channel=True, reduce_range=True)
        return onnx.load(file)


def _turn_shared(graph: Any, onnx: Any) -> None:
    """Transpose the weights that several Gemm nodes read transposed: a shared router's.

    The quantizer writes Gemm as MatMul, and transposes its weight where it stands, once for each node.
    """
    turned = set()
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Gemm" and attribute.name == "transB" and attribute.i:
                attribute.i = 0
                turned.add(node.input[1])
    for weight in graph.initializer:
        if weight.name in turned:
            array = onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(array.T.copy(), weight.name))
