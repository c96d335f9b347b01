"""What is shown of a training, one file per thing."""
