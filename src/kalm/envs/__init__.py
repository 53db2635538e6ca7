"""Environments: what they offer, how they are found, and the ones that ship with the library."""

from kalm.envs.registry import gymnasium_ids, make, names, published, register_gymnasium, require

__all__ = ["gymnasium_ids", "make", "names", "published", "register_gymnasium", "require"]
