"""UNITER's published computation as it was published, slow parts and all: what `speed.py` and `gpu.py` compare with.

Padded batches by the published sampler's rule, float32 without fused kernels, query, key and value apart, the whole
last layer, a mask as large as the states to pick masked words, an additive attention mask of -10000, features unpacked
from a compressed database for every example, transport of 50 iterations for each pair, an optimiser that walks over
the parameters in Python. Written anew from a description; tests/test_published_baseline.py holds it against outputs of
the original. Nothing here imports `uniter`.
"""
