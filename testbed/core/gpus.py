"""What accelerators compute at most.

Peaks are those of dense bfloat16 or float16 products without sparsity, from NVIDIA's data sheets
(V100, A100, H100 and H200 in their SXM forms; B200: a GPU's share of a DGX B200), Google's
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
FLOPS_PER_PARAMETER = (
    6  # and token, forward and backward; attention's own products not counted (arXiv 2001.08361)
)
