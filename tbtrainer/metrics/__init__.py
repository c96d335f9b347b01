"""`compute_metrics` for `Trainer`, built from metrics of the `evaluate` library.

```python
from tbtrainer.metrics import make_compute_metrics

trainer = Trainer(..., compute_metrics=make_compute_metrics("accuracy", "f1"))
```
"""

from tbtrainer.metrics.compute import ComputeMetrics, make_compute_metrics
from tbtrainer.metrics.logits import next_token_losses, predicted_classes

__all__ = ["ComputeMetrics", "make_compute_metrics", "next_token_losses", "predicted_classes"]
