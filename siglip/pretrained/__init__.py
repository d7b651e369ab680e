"""Models that exist already: finding and loading them."""
