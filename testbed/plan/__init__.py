"""What a run will do, in base units, made from what a person wrote."""
