"""Images from their files: whether all of each is there, its pixels, and what is known of it. Free of torch."""
