"""Tables in, training rows out: splits, leaks, labels, pairs, balancing. No models, no I/O."""
