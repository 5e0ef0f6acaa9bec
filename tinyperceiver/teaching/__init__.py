"""What the chapters need beside the model: figures, interactive pictures, exercise checkers.

Nothing outside this folder imports it.
"""
