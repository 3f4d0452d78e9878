"""What is measured without rivals, one file a make target."""
