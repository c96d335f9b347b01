"""Readers: classes that read the elements of tensors and count them, one file per technique."""
