"""Started by torchrun on two processes: ranks whose loaders differ in length, under sharding."""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from torch.utils.data import DataLoader

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.distributed.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.distributed.training_modes import changes_of
from tests.tiny import Sequences, arguments, trainer

allow_fsdp_on_cpu()


class Unequal(TBTrainer):
    """Rank zero has 5 batches in an epoch, rank one has 3."""

    def get_train_dataloader(self) -> DataLoader:
        batches = (5, 3)[self.args.process_index]
        return DataLoader(Sequences(4 * batches, seed=self.args.process_index), batch_size=4)


def main(directory: str, strategy: str, steps: float) -> None:
    args = arguments(
        TBTrainingArguments,
        Path(directory),
        max_steps=12,
        histogram_strategy=strategy,
        histogram_steps=steps,
        telemetry_errors="raise",
        **changes_of("fsdp2"),
    )
    made = trainer(Unequal, args)
    made.train()
    modes = [type(p).__name__ for p in made.model_wrapped.parameters()]
    if dist.get_rank() == 0:
        print(json.dumps({"step": made.state.global_step, "types": sorted(set(modes))}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
