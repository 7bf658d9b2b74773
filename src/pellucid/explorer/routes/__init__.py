"""What the page can ask, one file a subject. Nothing is computed here: the answers come from elsewhere in pellucid."""

from __future__ import annotations

from pellucid.explorer.routes import heads, models, passes

ALL = (models.router, passes.router, heads.router)
