"""The parts of a Transformer: masks, kernels, caches, positions, norms, attention, feed-forward, fronts, blocks."""

from pellucid.nn.first_call import call_once

call_once()
