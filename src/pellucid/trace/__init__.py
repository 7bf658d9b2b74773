"""Looking inside a model: every tensor that matters has a name, can be watched and can be replaced."""

from pellucid.trace.taps import Edit, Tape, Tapped, trace

__all__ = ["Edit", "Tape", "Tapped", "trace"]
