"""What actions do to states, learnt from real rollouts: judges and labels imagined ones."""
