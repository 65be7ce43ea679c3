"""Define the peak performance of accelerators in FLOP/s.

The values are peaks of dense bfloat16 or float16 products without sparsity, from NVIDIA's data
sheets (V100, A100, H100 and H200 in their SXM forms; B200: one GPU's share of a DGX B200), Google's
Cloud TPU documentation (v4, v5p) and AMD's data sheet (MI300X).
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

# FLOP per parameter and token, forward and backward (arXiv 2001.08361), without the products of
# attention.
FLOPS_PER_PARAMETER = 6
