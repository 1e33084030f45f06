"""What a bridge is worth, beside all else that can be made of the same models."""
