"""Peak performance of accelerators.

The peaks are those of dense bfloat16 or float16 products without sparsity, from NVIDIA's data
sheets (V100, A100, H100 and H200 in their SXM forms; B200: a GPU's share of a DGX B200), Google's
documents of Cloud TPU (v4, v5p) and AMD's data sheet (MI300X).
"""

PEAK_FLOPS = {  # FLOP/s
    "V100": 125e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "MI300X": 1307e12,
    "TPUv4": 275e12,
    "TPUv5p": 459e12,
}

# FLOP for each parameter and token, forward and backward (arXiv 2001.08361); the products of
# attention itself are not counted.
FLOPS_PER_PARAMETER = 6
