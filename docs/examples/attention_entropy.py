"""Histograms of tensors of your own: how evenly each attention head looks at the tokens before."""

import sys
from functools import partial

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tbtrainer import HistogramTarget, Observer, TBTrainer, TBTrainingArguments


# --8<-- [start:observer]
class AttentionEntropy(Observer):
    """Shows the entropy of some heads' attention in the last micro-batch: nats, one per token."""

    def __init__(self, modules, heads):
        self.heads = {f"{name}.head_{head}": (name, head) for name in modules for head in heads}
        self.weights, self.hooks = {}, []

    def run_begins(self, step, training):
        self.model = training.unwrapped_model
        self.target = HistogramTarget.of(
            training, "attention_entropy", list(self.heads), on_ranks="different"
        )

    def forward_begins(self, step):
        if self.target.is_due(step) and not self.hooks:
            for name in {name for name, head in self.heads.values()}:
                module = self.model.get_submodule(name)
                self.hooks.append(module.register_forward_hook(partial(self.keep, name)))

    def keep(self, name, module, inputs, output):
        self.weights[name] = output[1].detach()

    def gradients_ready(self, step, gradients):
        return self.target.records(step, self.entropies)

    def entropies(self):
        heads = [self.weights[name][:, head].float() for name, head in self.heads.values()]
        return [torch.special.entr(weights).sum(dim=-1) for weights in heads]

    def step_taken(self, step):
        self.close()

    def close(self):
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.weights.clear()


# --8<-- [end:observer]


def main(output_dir: str = "attention-entropy-output") -> None:
    """Trains a tiny language model on random tokens, with the observer added."""
    # Dropout scales the weights that the modules return, so that their sum is not 1.
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config)
    model.set_attn_implementation("eager")  # The others do not return the weights.
    tokens = torch.randint(0, 64, (64, 16), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TBTrainingArguments(
        output_dir, max_steps=20, histogram_steps=5, logging_steps=5, report_to="none"
    )
    trainer = TBTrainer(model=model, args=arguments, train_dataset=data)
    blocks = [f"transformer.h.{number}.attn" for number in range(config.n_layer)]
    trainer.add_observer(AttentionEntropy(blocks, heads=[0, 1]))
    trainer.train()
    print(f"Look at it:    tensorboard --logdir {trainer.writer.log_dir}")


if __name__ == "__main__":
    main(*sys.argv[1:])
