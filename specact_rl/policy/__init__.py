"""From scores to decisions: calibrators, thresholds, gates, systems and the live loop."""
