"""Offline RL algorithms, one file each; `kalm.rl.table` has them by name."""
