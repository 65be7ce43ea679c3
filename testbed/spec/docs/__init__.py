"""The schema and the reference of topology files, made from the models."""
