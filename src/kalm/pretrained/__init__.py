"""Pre-trained weights: where they are, how they are fetched, GGUF files made readable."""

from kalm.pretrained.known import MINILM, SMOLLM2
from kalm.pretrained.places import gguf_file, locate, recorded_name

__all__ = ["MINILM", "SMOLLM2", "gguf_file", "locate", "recorded_name"]
