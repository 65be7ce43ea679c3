"""From a run folder to tables, figures and one HTML page. Needs no privilege; never changes what
was measured.
"""
