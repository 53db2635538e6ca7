"""Gymnasium's Taxi as a world of kalm: a plug-in, walked through in ``docs/worlds.md``."""
