"""coderd's endpoints, one file each."""
