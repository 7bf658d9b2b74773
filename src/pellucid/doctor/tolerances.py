"""Every number that decides between PASS and FAIL, in one place.

Calibrated in float32 on a CPU over tiny random models of 58 published architectures: the largest noise seen there was
7e-7 of the largest output for what changes shapes, and exactly 0 for what does not.
"""

from __future__ import annotations

EXACT_NOISE = 1e-6
"""Same shapes must give the same bits. A difference below this share of the largest output is looked at in double
precision before it is called a fault: kernels of some devices add in no fixed order."""

CONSTANT = 1e-3
"""Share of its size by which a channel of the outputs varies at the most that tells nothing, and is no measure."""

SHAPE_PASS, SHAPE_FAIL = 1e-5, 1e-4
"""Share of the largest output by which two computations of different shapes may differ; between the two, and above,
double precision decides."""

HALF_FAIL = 2e-2
"""The same in half precision, where no other can be had: below it a difference may be what bfloat16 rounds."""

SHRUNK, STAYED = 0.1, 0.5
"""A difference that in double precision is below the first share of what it was is noise; above the second, a fault."""

CONTROL = 1e-6
"""A control moves the output by at least this share: below, nothing was mixed and nothing could have leaked."""

LABEL_MATCH, LABEL_MATCH_OWN = 0.99, 0.95
"""Share of asked positions that one offset must explain: of random text, and of the user's own, cut and masked."""

TOKEN_WEIGHTS, ROW_WEIGHTS = 1.001, 1.05
"""Largest ratio of what two asked tokens weigh: over gathered batches, and, estimated, over the rows of one."""

GRADIENT = 1e-4
"""Norm of the difference of two gradients, as a share of the norm of one."""

FLOOR_MARGIN = 0.02
"""Nats that a loss on uniform tokens may lie below their entropy by chance, at the least; else 4 standard errors."""

PENALTY = 1.05
"""Weight of all positions below which what is more than 1 may be that of a penalty on the outputs, not of the loss."""

INITIAL_LOSS = (0.5, 1.0, 2.0)
"""A fresh model's loss may lie this far below and above ln V; beyond the third, times ln V, it fails."""

SCALE = 1e-3
"""Relative difference of two scales of scores that are the same."""

ROW_SUM = 1e-5
"""How far the weights of a query may sum from 1."""

MASKED = -1e3
"""Scores below are those of a mask, also where it is added to them."""

FILL_MARGIN = 20.0
"""Nats between the lowest score that may be seen and the fill of what may not: e^-20 is 2e-9."""

SCALED = 1e-5
"""Share of its ``max_norm`` by which a row may be shorter that was scaled down to it."""

SAME = 1e-5
"""Of what a model makes of equal tokens, the share of the largest by which two numbers may differ and be the same."""

CLEAR = 1e-3
"""Share of how large scores can be by which they differ at the least where it is no rounding of layers before."""

TOEPLITZ = 1e-2
"""Deviation along the diagonals of what depends on distance alone, over the spread of the whole."""

DERIVATIVE = 0.02
"""Share by which a derivative may differ from a difference in double precision: less than a part of the model gives."""

DEAD_WARN, DEAD_FAIL = 0.25, 0.9
"""Share of the units of a layer that never fire."""

RESIDUAL_GROWTH, RESIDUAL_TOTAL = 3.0, 100.0
"""Growth of the residual stream's rms in one layer, and over all."""

GRADIENT_RATIO = 1e3
"""Between the gradient norms of the first and the last layer."""

OVERFIT = 0.1
"""Share of ln V that the loss on one batch must fall below."""

# ---- of a training that is watched ---------------------------------------------------------------

LASTING_RECORDS, LASTING_STEPS = 3, 20
"""A figure must be bad in so many records in a row, over so many steps at the least, before it is said."""

SATURATED, SHARP, MANY_HEADS = (0.05, 20.0), (0.3, 50.0), 0.5
"""A head is saturated when its entropy is below the first share of the greatest there can be and its scores reach the
number beside it, in either pair: heads that copy are as sharp with less. Worth a word when it is so of the last share
of all heads."""

UNIFORM, LEARNED_BY = 0.999, 1000
"""A head whose entropy is above the first share has learned nothing, if the training is so many steps old."""

UNITS_TOKENS, STILL = 4096, 1e-8
"""Tokens in which a unit must not have fired to be called dead; the variance below which one that has no zero is."""

LARGE_UPDATE, EXPLODED, DIVERGED = 0.1, 100.0, 2.0
"""Norm of one update over that of the weights; of a gradient over the median before; of a loss over the best before."""

LARGEST_RATE, DEEP, WARMUP_STEPS, NORMED = 1e-2, 6, 20, 1e-2
"""The largest rate that Adam survives; layers from which a post-norm model needs a warm-up, and steps after which it
is known whether there is one; the spread of the rows' sizes below which they have been normed."""
