"""An observer of your own: the largest and the smallest norm of a token's embedding."""

import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from tbtrainer import Observer, TBTrainer
from tbtrainer.records import Scalar


# --8<-- [start:observer]
class TokenNorms(Observer):
    """Shows the largest and the smallest norm of a token's embedding."""

    def run_begins(self, step, training):
        self.embedding = training.unwrapped_model.get_input_embeddings().weight

    def logging_step(self, step):
        norms = self.embedding.detach().norm(dim=1)
        return [
            Scalar("tokens/largest_norm", norms.max().item()),
            Scalar("tokens/smallest_norm", norms.min().item()),
        ]


# --8<-- [end:observer]


def main(output_dir: str = "token-norms-output") -> None:
    """Trains a tiny language model on random tokens, with the observer added."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
    tokens = torch.randint(0, 64, (64, 16), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TrainingArguments(output_dir, max_steps=20, logging_steps=5, report_to="none")
    trainer = TBTrainer(model=model, args=arguments, train_dataset=data)
    trainer.add_observer(TokenNorms())
    trainer.train()
    print(f"Look at it:    tensorboard --logdir {trainer.writer.log_dir}")


if __name__ == "__main__":
    main(*sys.argv[1:])
