"""PyTorch definitions of the networks: checkpoint loading, export, reference, training.

Only ``constants`` is imported while the CPU backend runs.
"""
