"""The language model: grounding it in an environment and decoding rollouts from it."""
