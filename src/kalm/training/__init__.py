"""How everything here is trained: one loop, one place for schedules, one checkpoint format, callbacks."""
