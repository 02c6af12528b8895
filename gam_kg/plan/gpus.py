"""Memory of GPUs by name, to plan with one that is not here."""

GPUS = {
    "A10G": 23.8,
    "A30": 24,
    "A40": 47.6,
    "A100-40": 40,
    "A100-80": 80,
    "B200": 180,
    "H100": 80,
    "H200": 141,
    "L4": 23.7,
    "L40S": 47.6,
    "RTX-3090": 24,
    "RTX-4090": 24,
    "T4": 15.8,
    "V100-16": 16,
    "V100-32": 32,
}
"""Name → 10⁹ bytes: the GB of NVIDIA's data sheets, or what is left of them where error correction takes some.

Torch reports about as much, and some of that is taken by the CUDA context.
"""


def gpu_bytes(name: str) -> float:
    """Memory of the GPU with a name of `GPUS`, upper or lower case.

    Raises:
        KeyError: There is none of this name.
    """
    return GPUS[name.upper()] * 1e9
