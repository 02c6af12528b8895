"""Memory of GPUs by name, to plan with one that is not here."""

GPUS = {
    "A10G": 24,
    "A30": 24,
    "A40": 48,
    "A100-40": 40,
    "A100-80": 80,
    "B200": 180,
    "H100": 80,
    "H200": 141,
    "L4": 24,
    "L40S": 48,
    "RTX-3090": 24,
    "RTX-4090": 24,
    "T4": 16,
    "V100-16": 16,
    "V100-32": 32,
}
"""Name → GB. Source: NVIDIA's data sheets. Taken as 10⁹ bytes, it is at most what torch reports of these GPUs."""


def gpu_bytes(name: str) -> float:
    """Memory of the GPU with a name of `GPUS`, upper or lower case.

    Raises:
        KeyError: There is none of this name.
    """
    return GPUS[name.upper()] * 1e9
