"""Images with their noise maps, made once and read at each step: the shards, and what is varied in them."""
