"""What the page can ask, one file a subject. Nothing is computed here: the answers come from elsewhere in pellucid."""

from __future__ import annotations

from pellucid.explorer.routes import (
    compare,
    doctor,
    heads,
    masking,
    models,
    norms,
    passes,
    positions,
    residual,
    size,
    training,
    units,
    vocabulary,
    whatif,
    writing,
)

ALL = (
    models.router,
    passes.router,
    heads.router,
    training.router,
    compare.router,
    doctor.router,
    size.router,
    norms.router,
    residual.router,
    units.router,
    writing.router,
    whatif.router,
    vocabulary.router,
    positions.router,
    masking.router,
)
