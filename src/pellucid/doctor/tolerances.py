"""Every number that decides between PASS and FAIL, in one place.

Calibrated in float32 on a CPU over tiny random models of 58 published architectures: the largest noise seen there was
7e-7 of the largest output for what changes shapes, and exactly 0 for what does not.
"""

from __future__ import annotations

EXACT_NOISE = 1e-6
"""Same shapes must give the same bits. A difference below this share of the largest output is looked at in double
precision before it is called a fault: kernels of some devices add in no fixed order."""

SHAPE_PASS, SHAPE_FAIL = 1e-5, 1e-4
"""Share of the largest output by which two computations of different shapes may differ; between the two, and above,
double precision decides."""

SHRUNK, STAYED = 0.1, 0.5
"""A difference that in double precision is below the first share of what it was is noise; above the second, a fault."""

CONTROL = 1e-6
"""A control moves the output by at least this share: below, nothing was mixed and nothing could have leaked."""

LABEL_MATCH, LABEL_RUNNER_UP = 0.99, 0.35
"""Share of asked positions that one offset must explain, and the most that any other may."""

TOKEN_WEIGHTS = 1.001
"""Largest ratio of what two asked tokens weigh in a loss that is accumulated."""

GRADIENT = 1e-4
"""Norm of the difference of two gradients, as a share of the norm of one."""

FLOOR_MARGIN = 0.02
"""Nats that a loss on uniform tokens may lie below their entropy by chance, at the least; else 4 standard errors."""

INITIAL_LOSS = (0.5, 1.0, 2.0)
"""A fresh model's loss may lie this far below and above ln V; beyond the third, times ln V, it fails."""

SCALE = 1e-3
"""Relative difference of two scales of scores that are the same."""

ROW_SUM = 1e-5
"""How far the weights of a query may sum from 1."""

FILL_MARGIN = 20.0
"""Nats between the lowest score that may be seen and the fill of what may not: e^-20 is 2e-9."""

TOEPLITZ = 1e-2
"""Deviation along the diagonals of what depends on distance alone, over the spread of the whole."""

DEAD_WARN, DEAD_FAIL = 0.25, 0.9
"""Share of the units of a layer that never fire."""

RESIDUAL_GROWTH, RESIDUAL_TOTAL = 3.0, 100.0
"""Growth of the residual stream's rms in one layer, and over all."""

GRADIENT_RATIO = 1e3
"""Between the gradient norms of the first and the last layer."""

OVERFIT = 0.1
"""Share of ln V that the loss on one batch must fall below."""
