"""The 3-D networks that can be pre-trained; `registry` has their names."""
