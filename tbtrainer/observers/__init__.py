"""Observers: each shows one thing of a training, and has a file of its own."""
