"""CLEVR-Robot: five balls on a table, one push per action."""
