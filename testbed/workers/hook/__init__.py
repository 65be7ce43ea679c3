"""A folder for PYTHONPATH: Python processes that a user's script starts are recorded by what they
find here.
"""
