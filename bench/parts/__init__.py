"""What `make bench` compares with the rivals, one file a part."""
