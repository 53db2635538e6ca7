"""Numbers that the paper (NeurIPS 2024) and its released sample give for CLEVR-Robot, to stand beside ours.

They come from a far larger model and longer training (Llama-2-7B, 100,000 real rollouts, 500,000 gradient
steps, 3 seeds), so they are for orientation and enter no computation.
"""

from __future__ import annotations

SETTING = "Llama-2-7B, 500,000 gradient steps, 3 seeds"

# World -> level -> number of the paper's novel goals.
MIX = {"clevr": {"rephrase": 800, "easy": 400, "hard": 200}}

# World -> policy -> mean success over the novel levels.
NOVEL_SUCCESS = {"clevr": {"CQL": 0.155, "CQL+KALM": 0.271}}

# World -> row of the quality table -> cell; measured on the 80 released rollouts of `rephrase`.
QUALITY = {
    "clevr": {
        "rollouts": "80",
        "goal reached, % of rollouts": "77.5",
        "off table, % of rollouts": "17.5",
        "interpenetrating, % of states": "66",
        "moving balls, mean per step": "4.99",
        "pushed moves most, mean per step": "0.832",
    }
}

# World -> level -> share of rollouts that reach their goal.
MATCH = {"clevr": {"rephrase": 0.775}}
# World -> level -> violation -> share of rollouts.
VIOLATIONS = {"clevr": {"off_table": {"rephrase": 0.184, "hard": 0.043}}}
