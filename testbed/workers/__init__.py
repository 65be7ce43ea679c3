"""The ranks of a run: where they live (containers or processes) and what runs beside the user's
code.
"""
