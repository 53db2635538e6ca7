"""Measuring policies in the simulator and imagined rollouts against goals and physics."""
