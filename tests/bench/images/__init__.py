"""lorac beside diffusers' recipe on pictures."""
