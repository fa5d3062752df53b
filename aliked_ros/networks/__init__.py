"""PyTorch definitions of the networks: checkpoint loading, export, reference, training.

Nothing in this folder is imported while the CPU backend runs.
"""
