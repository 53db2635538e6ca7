"""Numbers that the paper (NeurIPS 2024) and its released sample give for CLEVR-Robot, to stand beside ours.

They come from a far larger model and longer training (Llama-2-7B, 100,000 real rollouts, 500,000 gradient
steps, 3 seeds), so they are for orientation and enter no computation. Quality was measured on the 80 released
rollouts of `rephrase`.
"""

from __future__ import annotations

from kalm.envs.base import Published

PUBLISHED = Published(
    setting="Llama-2-7B, 500,000 gradient steps, 3 seeds",
    mix={"rephrase": 800, "easy": 400, "hard": 200},
    novel_success={"CQL": 0.155, "CQL+KALM": 0.271},
    quality={
        "rollouts": "80",
        "goal reached, % of rollouts": "77.5",
        "off table, % of rollouts": "17.5",
        "interpenetrating, % of states": "66",
        "moving balls, mean per step": "4.99",
        "pushed moves most, mean per step": "0.832",
    },
    match={"rephrase": 0.775},
    violations={"off_table": {"rephrase": 0.184, "hard": 0.043}},
)
