"""Meta-World: a Sawyer arm and 22 tasks on one table."""
