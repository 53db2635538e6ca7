"""No example is too slow: how long one takes says more about the machine than about the code."""

from hypothesis import settings

settings.register_profile("kalm", deadline=None)
settings.load_profile("kalm")
