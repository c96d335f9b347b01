"""TensorBoard as a child process of the training, opened in a notebook where there is one."""

from tbtrainer.tensorboard_server.show import show_run

__all__ = ["show_run"]
