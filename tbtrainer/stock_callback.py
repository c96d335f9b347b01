"""Removes the TensorBoard callback that stock `Trainer` adds, so that nothing is written twice."""

from typing import Any

from transformers.integrations import TensorBoardCallback


def remove_stock_callback(trainer: Any) -> None:
    """Removes stock's TensorBoard callback from a trainer, if it is there."""
    # A new list, because stock may be iterating over the old one.
    handler = trainer.callback_handler
    handler.callbacks = [c for c in handler.callbacks if not _is_stocks_own(c)]


def _is_stocks_own(callback: Any) -> bool:
    """Returns whether a callback is the one that stock adds for TensorBoard.

    A subclass may show more, and a callback with a writer was built by the user. Both stay.
    """
    return type(callback) is TensorBoardCallback and callback.tb_writer is None
