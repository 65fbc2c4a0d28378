"""The report of a run: everything in it comes from the run directory.

`page.write_report`, `table.summary_table` and `console.print_summary` are what others use.
"""
