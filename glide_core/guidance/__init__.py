"""Guidance: classifier-free, by wrapping a model; by CLIP, as gradients."""
