"""Language models: loading, tiny ones from scratch, generation and candidate scoring."""
