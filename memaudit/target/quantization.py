"""Weights in fewer bits: quantised at load time, or stored quantised.

Knows transformers' own settings for quantisation, and which packages they need. Knows nothing about
devices. ``softprompt_check`` tests whether gradients pass through the result.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import transformers
from transformers import BitsAndBytesConfig, TorchAoConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from memaudit.config.settings import TargetSettings
from memaudit.errors import UsageError
from memaudit.system.memory import is_out_of_memory
from memaudit.target.failures import FAILURES, brief
from memaudit.target.refusals import refusal
from memaudit.target.source import Source

PACKAGE_OF = {"int8": "torchao", "llm-int8": "bitsandbytes", "nf4": "bitsandbytes"}
"""Value of ``target.quantize`` -> package that does it."""
STORED_NEEDS = {
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "torchao": "torchao",
}
"""Method of stored weights -> package that reads them; other methods are left to transformers."""


class Quantization(NamedTuple):
    """How the weights of a target are quantised."""

    name: str
    """Method, as written in the report."""
    reason: str
    asked: Any = None
    """Settings for transformers; None if the checkpoint brings its own."""
    rounds_inputs: bool = False
    """True if a layer's inputs are rounded too, or computed in another format than the target's:
    then logits depend slightly on the other rows of a batch."""
    unpacked: bool = False
    """True if the weights were unpacked to plain numbers at load time."""

    @property
    def stays_stored(self) -> bool:
        """True if the weights were stored quantised and are used in that form."""
        return self.asked is None and not self.unpacked


def find_quantization(
    source: Source, settings: TargetSettings, config: Any, dtype: torch.dtype
) -> Quantization | None:
    """Return the quantisation of the settings or the checkpoint; None for plain numbers.

    Weights that transformers can unpack to plain numbers are unpacked: this is set in ``config``.
    Raises UsageError for a setting that cannot be met, TargetError for weights that cannot be read
    here.
    """
    stored = _stored(config)
    if settings.quantize is not None:
        flag = f"--quantize {settings.quantize}"
        if source.weights.kind == "gguf":
            raise UsageError(f"{flag}: a GGUF file is unpacked to full numbers; leave it out")
        if stored is not None:
            raise UsageError(f"{flag}: {source.name} is quantised already; leave it out")
        return _asked(settings.quantize, flag, dtype)
    return None if stored is None else _read(source.name, config, stored, dtype)


def _asked(method: str, flag: str, dtype: torch.dtype) -> Quantization:
    package = PACKAGE_OF[method]
    if not _is_there(package):
        raise UsageError(f"{flag}: needs {package}; pip install 'memaudit-dsp[quantized]'")
    reason = f"asked for; by {package}"
    if method == "int8":
        try:
            from torchao.quantization import Int8WeightOnlyConfig
        except ImportError as error:
            raise UsageError(
                f"{flag}: torchao cannot be used with this PyTorch ({brief(error)}); use llm-int8 "
                "or nf4"
            ) from error
        return Quantization(method, reason, TorchAoConfig(Int8WeightOnlyConfig()))
    if method == "llm-int8":
        return Quantization(
            method, reason, BitsAndBytesConfig(load_in_8bit=True), rounds_inputs=True
        )
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=method, bnb_4bit_compute_dtype=dtype
    )
    return Quantization(method, reason, four)


def _stored(config: Any) -> Any:
    """Return the config with the storage format of the weights: the model's, or its text part's."""
    for part in (config, config.get_text_config(decoder=True)):
        if getattr(part, "quantization_config", None) is not None:
            return part
    return None


def _read(name: str, config: Any, holder: Any, dtype: torch.dtype) -> Quantization:
    settings = holder.quantization_config
    if not isinstance(settings, dict):
        settings = settings.to_dict()
    method = str(settings.get("quant_method", "unknown"))
    kind = method
    if method == "bitsandbytes":
        kind = "bitsandbytes_4bit" if settings.get("load_in_4bit") else "bitsandbytes_8bit"
    known = AUTO_QUANTIZATION_CONFIG_MAPPING.get(kind)
    if known is None:
        raise refusal(
            name,
            f"is quantised as {brief(ValueError(method), 40)}, which transformers "
            f"{transformers.__version__} does not know; audit it unquantised",
        )
    package = STORED_NEEDS.get(method)
    if package is not None and not _is_there(package):
        raise refusal(
            name,
            f"is quantised as {method}, which needs {package}; pip install "
            f"{package}, or audit it unquantised",
        )
    if "dequantize" in inspect.signature(known.__init__).parameters:
        holder.quantization_config = settings | {"dequantize": True}
        reason = "stored quantised; unpacked to full numbers"
        return Quantization(f"{method}, unpacked", reason, unpacked=True)
    return Quantization(
        kind.replace("_", " "), "stored quantised", rounds_inputs=_rounds_inputs(settings, dtype)
    )


def _rounds_inputs(settings: dict[str, Any], dtype: torch.dtype) -> bool:
    """Return True unless the stored weights are known to be used with unrounded inputs."""
    if settings.get("load_in_4bit"):
        return str(settings.get("bnb_4bit_compute_dtype")) != str(dtype).removeprefix("torch.")
    return "WeightOnly" not in str(settings.get("quant_type"))


def _is_there(package: str) -> bool:
    """Return True if the distribution of this name is installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@contextmanager
def quantised_weights(name: str, quantization: Quantization | None) -> Iterator[None]:
    """Name the quantisation in the error if loading quantised weights fails.

    Raises:
        TargetError: in place of any error in ``FAILURES``, if there is a quantisation.
    """
    try:
        yield
    except FAILURES as error:
        if quantization is None or is_out_of_memory(error):
            raise
        another = "use another --quantize, or " if quantization.asked is not None else ""
        raise refusal(
            name,
            f"cannot be loaded as {quantization.name} here ({brief(error)}); {another}"
            "audit it unquantised",
        ) from error


def finish(model: Any, name: str, quantization: Quantization) -> None:
    """Check that weights were quantised, and keep bitsandbytes from cutting gradients.

    On a CPU with bfloat16 instructions, bitsandbytes repacks 4-bit weights at the first pass
    without a gradient, and then multiplies by them with a kernel that has no gradient: later
    gradients are silently those of the rest of the network (bitsandbytes 0.50). Its other kernel
    gives the same figures.

    Raises:
        TargetError: no weight was quantised.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    if quantization.asked is not None and not any(map(is_packed, model.parameters())):
        package = PACKAGE_OF[quantization.name]
        raise refusal(
            name,
            f"{package} finds no weight of {type(model).__name__} that it quantises; use "
            "another --quantize, or leave it out",
        )


def is_packed(weight: torch.Tensor) -> bool:
    """Return True for a parameter of a special class, as quantised weights are."""
    return type(weight) is not torch.nn.Parameter


def unpacked_size(weight: torch.Tensor) -> int:
    """Return the count of numbers in a parameter; a 4-bit parameter has two in each byte."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else int(torch.Size(state.shape).numel())
