"""How long a test waits for another process.

The limits end a test that hangs and serve no other purpose, so they hold on a machine many times
slower than a quiet one. What a test measures is never a time.
"""

# Shorter than pytest's own limit in setup.cfg, so that a test can still show what was printed.
HANG_SECONDS = 1200
