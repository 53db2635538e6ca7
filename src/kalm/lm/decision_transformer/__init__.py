"""Decision Transformer (Chen et al., 2021) on the backbone of the language model."""
