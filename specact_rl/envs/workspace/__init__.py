"""A deterministic, restorable office-and-code workspace with a scripted expert."""
