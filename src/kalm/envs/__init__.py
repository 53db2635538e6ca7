"""Environments: what they offer, how they are found, and the ones that ship with the library."""

from kalm.envs.registry import make, names, register_gymnasium, require

__all__ = ["make", "names", "register_gymnasium", "require"]
