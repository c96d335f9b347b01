"""Bytes into event files, whatever the disk does."""
