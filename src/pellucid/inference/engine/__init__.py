"""Decoding at the speed of the machine: :class:`Engine`, and the same for encoders: :class:`EncoderEngine`."""

from pellucid.inference.engine.encoder import EncoderEngine
from pellucid.inference.engine.engine import Engine
from pellucid.inference.engine.fast import fast

__all__ = ["EncoderEngine", "Engine", "fast"]
