"""The whole tree of settings, assembled from classes beside what they set; presets; overrides.

`load_config` resolves a run's settings, `describe` lists every setting, `RENAMED` knows the names of earlier
versions.
"""

from kalm.config.describe import Setting, describe_settings, sections
from kalm.config.load import load_config, parse_config
from kalm.config.presets import preset_names
from kalm.config.renamed import RENAMED
from kalm.config.tree import Config, OnlineConfig

__all__ = [
    "RENAMED",
    "Config",
    "OnlineConfig",
    "Setting",
    "describe_settings",
    "load_config",
    "parse_config",
    "preset_names",
    "sections",
]
