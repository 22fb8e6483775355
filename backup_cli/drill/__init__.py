"""The drill: playing a recorded node, and reporting what was measured."""
