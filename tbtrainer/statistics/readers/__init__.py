"""What reads the elements of tensors: one file per technique, all with the same two functions."""
