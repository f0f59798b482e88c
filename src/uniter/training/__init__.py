"""The training loop and its parts. They know neither words nor pictures: they are handed a `Job`."""
