"""Settings of torch and the device that affect the last bits of figures, for the report.

Knows torch's switches and how devices are called. Sets none of them.
"""

from __future__ import annotations

import torch


def describe_accelerator(device: torch.device) -> dict[str, str]:
    """Name, memory and software of the accelerator; empty on the CPU."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "accelerator": properties.name,
            "accelerator_memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "cuda": str(torch.version.cuda or torch.version.hip),
        }
    return {} if device.type == "cpu" else {"accelerator": device.type}


def describe_determinism() -> dict[str, str]:
    """Return torch's switches that affect the figures."""
    return {
        "deterministic_algorithms": _yes(torch.are_deterministic_algorithms_enabled()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_deterministic": _yes(torch.backends.cudnn.deterministic),
        "cudnn_benchmark": _yes(torch.backends.cudnn.benchmark),
        "threads": str(torch.get_num_threads()),
    }


def _yes(switch: bool) -> str:
    return "yes" if switch else "no"
