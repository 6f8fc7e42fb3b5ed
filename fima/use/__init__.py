"""What people do with an encoder: load, embed, search, predict, export, share."""
