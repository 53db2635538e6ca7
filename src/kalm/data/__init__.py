"""Rollouts: the columnar set, its files, its checks, and where real ones come from."""
