"""Records and verdicts, as tables, figures and a page."""
