"""Offline RL on real and imagined rollouts."""
