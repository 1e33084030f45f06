"""Evaluation: a bridge is compared with everything else that can be made of the same models."""
