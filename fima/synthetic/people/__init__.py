"""Rendered people whose motions are known: articulated figures over textures with the spectrum of photographs."""
