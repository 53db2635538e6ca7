"""Reading: an instruction becomes plain sentences of the data."""
