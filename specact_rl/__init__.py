"""Research toolkit for speculative tool actions: mine pairs, train, gate, calibrate, evaluate."""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
