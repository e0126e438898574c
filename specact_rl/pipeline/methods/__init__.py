"""Ways to teach a proposer more, compared from one start, at one price, on the same held-out tasks.

`catalogue` says what the methods are, `budget` what their steps cost, `comparison` runs them and
reads what came out; `eval.method_report` makes the tables.
"""
