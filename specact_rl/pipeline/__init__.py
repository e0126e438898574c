"""The whole path by preset: tasks, rollouts, training, outcomes, gates, live episodes, report.

Empty, so that what needs no model (`table_evaluation`) does not wait for the model libraries.
"""
