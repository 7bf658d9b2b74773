"""Decoding at the speed of the machine: :class:`Engine`, and the same for encoders: :class:`EncoderEngine`."""

from pellucid.inference.engine.encoder import EncoderEngine
from pellucid.inference.engine.engine import Engine

__all__ = ["EncoderEngine", "Engine"]
