"""Goals: structured targets, their verdicts and rewards on states, and their sentences."""
