"""When a command may replace something, and what a person has to type for it."""
