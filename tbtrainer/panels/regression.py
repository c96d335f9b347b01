"""`PredictedAgainstTrue` and `Residuals`: how near the numbers are that a model predicts."""
