"""The stages of a run, one file each: what goes in, what is done, and what the result depends on."""
