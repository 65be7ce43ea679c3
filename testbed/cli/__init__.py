"""Turn command lines into runs and printed results; the only package that prints or exits."""
