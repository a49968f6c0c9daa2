"""Side by side with its peers: the same work, the same run, the same core."""
