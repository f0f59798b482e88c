"""The embedded world: pictures drawn on demand, and true and false things said about them."""
