"""The parts of a Transformer: masks, kernels, caches, positions, norms, attention, feed-forward, fronts, blocks."""
