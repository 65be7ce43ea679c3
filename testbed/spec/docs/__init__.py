"""Turn the models of files and options into JSON schemas and reference pages."""
