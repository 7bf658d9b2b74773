"""pellucid: the Transformer you can see through."""

from pellucid.version import __version__

__all__ = ["__version__"]
