"""Configuration without torch: what a model is, what a run is, presets, and files of both."""

from pellucid.config import model, parts, run
from pellucid.config.files import dumps, load_config, loads, save_config
from pellucid.config.presets import PRESETS, Preset, preset
from pellucid.config.schema import from_dict, to_dict, with_overrides

__all__ = [
    "PRESETS",
    "Preset",
    "dumps",
    "from_dict",
    "load_config",
    "loads",
    "model",
    "parts",
    "preset",
    "run",
    "save_config",
    "to_dict",
    "with_overrides",
]
