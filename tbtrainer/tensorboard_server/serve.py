"""The program of the child process: serves TensorBoard until its standard input ends.

    python serve.py --logdir DIRECTORY --host localhost --port 0

Prints the URL as its first line. The standard input is a pipe from the parent, so it ends however
the parent ends, also when that is killed.

It is started by its path and imports nothing of tbtrainer, because that would import PyTorch.
"""

import sys

from tensorboard import default, program


def main() -> None:
    """Serves with the flags of the command line."""
    server = program.TensorBoard(plugins=default.get_plugins())
    server.configure(argv=sys.argv)
    print(server.launch(), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
