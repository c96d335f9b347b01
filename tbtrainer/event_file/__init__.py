"""Event files: records are queued, written by a thread, and retried after faults of the disk."""
