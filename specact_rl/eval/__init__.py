"""From outcome tables and score tables to numbers with error bars."""
