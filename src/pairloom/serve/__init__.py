"""The page to draw on: `pairloom serve`, its server, and its interface for programs."""
