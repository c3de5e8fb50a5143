"""What keeps the service going: the sweep of what workers dropped, and the deletion of what is old."""
