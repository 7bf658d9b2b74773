"""Decoding at the speed of the machine: :class:`~pellucid.inference.engine.engine.Engine`."""

from pellucid.inference.engine.engine import Engine

__all__ = ["Engine"]
