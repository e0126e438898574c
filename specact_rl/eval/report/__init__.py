"""From results.json to a page a researcher reads: tables, figures, and verdicts in plain words."""

from specact_rl.eval.report.markdown import to_markdown
from specact_rl.eval.report.terminal import terminal_summary
from specact_rl.eval.report.verdicts import verdicts
from specact_rl.eval.report.writing import write_report

__all__ = ["terminal_summary", "to_markdown", "verdicts", "write_report"]
